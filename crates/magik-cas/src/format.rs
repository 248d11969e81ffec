//! What lies on disk.
//!
//! ```text
//! <root>/blobs/lock                       the lock file of the protocol in `locking`; empty
//! <root>/blobs/.lock.guard                held while an exposed lock file is replaced
//! <root>/blobs/<algorithm>/<ab>/<hex>     one blob; <ab> are the first two digits of <hex>
//! <root>/tmp/ingest-<random>              a blob that is being written
//! <root>/tmp/partial-<algorithm>-<hex>    one that can be resumed; its writer holds an flock of it
//! ```
//!
//! - `<algorithm>` is `sha256` or `sha512`, `<hex>` the digest in lower case.
//! - `<root>` and every directory have mode 0700, lock files 0600 ([`private`](crate::private)).
//! - A blob's file has the mode 0600 and is never written again. It is renamed into place when
//!   complete; with [`Durability::Full`](crate::Durability::Full) after its `fsync`, and before one
//!   of its directory.
//! - Renaming onto an existing blob is harmless (the bytes are the same) and repairs a damaged one.
//! - A partial blob may be damaged, so it is hashed again when it is resumed.
//! - Names in `tmp` with `ingest-` or `partial-` belong to a living [`Writer`](crate::Writer) or
//!   [`Staged`](crate::Staged) blob, or to a process that died. Other names are not this crate's.
//! - There is no index and no reference count: the caller says which blobs are live.
