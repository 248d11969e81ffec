//! Layers.

mod across;
mod bombs;
mod escapes;
mod format;
mod nodes;
mod sparse;
mod whiteouts;

use sha2::{Digest, Sha256};

use crate::{
    Bounds, Expected,
    tarball::{Tar, gzip},
};

/// A layer's blob and the digest of what it decompresses to.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The bytes of the blob.
    pub blob: Vec<u8>,
    /// What the configuration says of it, `sha256:…`.
    pub diff_id: String,
}

impl Layer {
    /// A blob that decompresses to `plain`.
    #[must_use]
    pub fn new(blob: Vec<u8>, plain: &[u8]) -> Self {
        let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(plain)));
        Self { blob, diff_id }
    }

    /// A blob that is not compressed.
    #[must_use]
    pub fn plain(plain: Vec<u8>) -> Self {
        let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&plain)));
        Self { blob: plain, diff_id }
    }
}

impl From<Tar> for Layer {
    fn from(tar: Tar) -> Self {
        let plain = tar.done();
        Self::new(gzip(&plain), &plain)
    }
}

type Make = Box<dyn Fn() -> Vec<Layer>>;

/// Layers of one image, and what must become of them.
pub struct Case {
    /// What it is called, a file name.
    pub name: &'static str,
    /// What must become of it.
    pub expected: Expected,
    make: Make,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.name, self.expected)
    }
}

impl Case {
    /// Makes the layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        (self.make)()
    }
}

/// All cases. `canary` is the absolute path of a directory with a file `secret`, outside of wherever the layers are
/// unpacked: many try to get at it. Those that are past a limit are past `bounds`.
#[must_use]
pub fn cases(canary: &str, bounds: Bounds) -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    escapes::add(&mut cases, canary);
    whiteouts::add(&mut cases, canary);
    across::add(&mut cases);
    nodes::add(&mut cases);
    format::add(&mut cases);
    sparse::add(&mut cases);
    bombs::add(&mut cases, bounds);
    cases.0
}

struct Cases(Vec<Case>);

impl Cases {
    /// Layers that become this tree: lines of [`listing`](crate::tree::listing).
    fn tree<L: Into<Layer>>(
        &mut self,
        name: &'static str,
        make: impl Fn() -> Vec<L> + 'static,
        tree: &[&str],
    ) {
        self.push(name, Expected::Taken(tree.join("\n")), move || {
            make().into_iter().map(Into::into).collect()
        });
    }

    /// Layers that are refused for this reason.
    fn refused<L: Into<Layer>>(
        &mut self,
        name: &'static str,
        make: impl Fn() -> Vec<L> + 'static,
        reason: &'static str,
    ) {
        self.push(name, Expected::Refused(reason), move || {
            make().into_iter().map(Into::into).collect()
        });
    }

    fn push(&mut self, name: &'static str, expected: Expected, make: impl Fn() -> Vec<Layer> + 'static) {
        let make = Box::new(make);
        self.0.push(Case { name, expected, make });
    }
}
