//! What lies on disk.
//!
//! ```text
//! <root>/blobs/lock                       the lock file of the protocol in `locking`; empty, never removed
//! <root>/blobs/.lock.guard                held while a lock file that others could open is replaced
//! <root>/blobs/<algorithm>/<ab>/<hex>     one blob; <ab> are the first two digits of <hex>
//! <root>/tmp/ingest-<random>              a blob under way
//! <root>/tmp/partial-<algorithm>-<hex>    a blob under way that can be gone on with; locked (flock) while it is written
//! ```
//!
//! - `<algorithm>` is `sha256` or `sha512`, `<hex>` the digest in lower case.
//! - `<root>` and every directory have the mode 0700, lock files 0600; see
//!   [`private`](crate::private).
//! - A blob's file has the mode 0600 and is never written again: it comes into place by `rename`, complete and, with
//!   [`Durability::Full`](crate::Durability::Full), after `fsync`, followed by an `fsync` of its directory.
//! - Renaming onto a blob that is there already is harmless (the bytes are the same) and heals one that was damaged.
//! - A partial blob is the beginning of one, if it is not damaged: whoever goes on with it hashes it again.
//! - Everything in `tmp` whose name starts with `ingest-` or `partial-` belongs to a living [`Writer`](crate::Writer) or [`Staged`](crate::Staged)
//!   blob, or to a process that died or gave up. Other names in `tmp` and in `<root>` are not this crate's.
//! - There is no index and no reference count: the directory is the truth, what is live is the caller's to say.
