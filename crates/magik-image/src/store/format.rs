//! What lies on disk, beside the blobs of [`magik_cas::format`].
//!
//! ```text
//! <root>/format                  the version of all this, in decimal digits
//! <root>/images/<key>.json       one name: {"reference": "docker.io/library/nginx:latest" | null, "manifest": <OCI descriptor>}
//! <root>/layers/<chain>/fs/      an unpacked layer in overlayfs form, by the hexadecimal digits of its chain id
//! <root>/layers/<chain>/layer.json  {"diffId", "size": bytes of file content, "files": entries, "userXattr": bool}
//! <root>/layers/<chain>.tmp/     a layer being unpacked or removed
//! <root>/layers/<chain>.lock     flock(LOCK_EX) while one process unpacks that layer
//! <root>/leases/<name>           {"images": [manifest digests], "layers": [chain ids]} that prune must leave
//! <root>/leases/.lock            flock(LOCK_EX) while a lease is changed
//! <root>/wasm-cache/<module>-*   compiled programs, by the SHA-256 of their modules (written by oci-wasm, which says more)
//! <root>/tmp/image-*             a record being written
//! ```
//!
//! - `<root>` and the directories in it have the mode 0700; see [`magik_cas::private`].
//! - `<key>` is the SHA-256 of the reference as text, or of `@` and the manifest's digest for an image without a name: a
//!   reference may hold characters, and be longer, than file names.
//! - `<chain>` has no `sha256:`, because `:` separates the directories of an overlay mount.
//! - **Overlayfs form**: a whiteout is a character device 0/0, an opaque directory has the extended attribute
//!   `trusted.overlay.opaque=y`. A process without `CAP_SYS_ADMIN` writes `user.overlay.opaque` instead, `userXattr` is
//!   true, and the overlay must be mounted with `userxattr`. Without root, owners are not kept, and device nodes are left out.
//! - A directory that a layer only implies (it has an entry below it, but none for itself) takes owner, mode, times and
//!   attributes from the topmost lower layer that has it, as if the layer had been unpacked on top of the others.
//! - `layers/<chain>` is complete: it appears by `rename` after `syncfs`. Its blob has been verified by then, and its diff id.
//!
//! **Versions.** This is version 1; a store without the file `format` is of version 1, too, and gets one. Files and fields that are
//! added so that an older magikrun may ignore them do not change the version. A store of another version is refused
//! ([`Error::StoreVersion`](crate::Error::StoreVersion)) before anything in it is touched: a magikrun that did not know what it
//! means would prune it.
//!
//! **Locking.** Whoever records an image or unpacks layers holds a [`magik_cas::Lease`] meanwhile; prune holds
//! [`magik_cas::Exclusive`] throughout. So under prune, every `.tmp`, `.lock` and `tmp/image-*` belongs to no living process.
//! Within an unpack, the lock of a layer is taken before those above it, so two processes cannot wait for each other.

/// The version of the format that this crate reads and writes.
pub const VERSION: u32 = 1;
