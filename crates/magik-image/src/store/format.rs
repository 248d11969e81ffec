//! What lies on disk, beside the blobs of [`magik_cas::format`].
//!
//! ```text
//! <root>/format                  the version of all this, in decimal digits
//! <root>/images/<key>.json       {"reference": name | null, "manifest": <OCI descriptor>}
//! <root>/layers/<chain>/fs/      an unpacked layer in overlayfs form; <chain>: its chain id
//! <root>/layers/<chain>/layer.json  {"diffId", "size" of the files, "files": count, "userXattr"}
//! <root>/layers/<chain>.tmp/     a layer being unpacked or removed
//! <root>/layers/<chain>.lock     flock(LOCK_EX) while one process unpacks that layer
//! <root>/leases/<name>           {"images": [manifest digests], "layers": [chain ids]} for prune
//! <root>/leases/.lock            flock(LOCK_EX) while a lease is changed
//! <root>/wasm-cache/<module>-*   compiled programs, by their modules' SHA-256 (see oci-wasm)
//! <root>/tmp/image-*             a record being written
//! ```
//!
//! - `<root>` and the directories in it have the mode 0700; see [`magik_cas::private`].
//! - `<key>` is the SHA-256 of the reference, or of `@` and the manifest's digest for an image
//!   without a name: a reference may hold characters, and be longer, than file names.
//! - `<chain>` is in hex without `sha256:`, because `:` separates directories of an overlay mount.
//! - **Overlayfs form**: a whiteout is a character device 0/0; `trusted.overlay.opaque=y` marks an
//!   opaque directory. Without `CAP_SYS_ADMIN` it is `user.overlay.opaque`, `userXattr` is true,
//!   and the mount needs `userxattr`. Without root there are no owners and devices.
//! - A directory without an entry of its own takes owner, mode, times and attributes from the
//!   topmost lower layer that has it, as if the layer were unpacked on top.
//! - `layers/<chain>` is complete: renamed after `syncfs`, with verified blob and diff id.
//!
//! **Versions.** This is version 1; a store without the file `format` is too, and gets one.
//! Additions that an older magikrun may ignore keep the version. Another version is refused
//! ([`Error::StoreVersion`](crate::Error::StoreVersion)) before the store is touched: prune would
//! remove what it does not know.
//!
//! **Locking.** A process that records an image or unpacks layers holds a [`magik_cas::Lease`];
//! prune holds [`magik_cas::Exclusive`]. So during prune, every `.tmp`, `.lock` and `tmp/image-*`
//! is of a dead process. An unpack locks lower layers first, so two processes cannot deadlock.

/// The version of the format that this crate reads and writes.
pub const VERSION: u32 = 1;
