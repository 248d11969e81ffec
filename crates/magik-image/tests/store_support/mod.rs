//! Layers, images and stores for the tests of the store, of unpacking and of layouts.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::needless_pass_by_value)]

use std::{io::Write, path::PathBuf};

use magik_cas::{Algorithm, Digest, Durability};
use magik_image::{Image, ImageStore, Limits};
use oci_spec::image::{Descriptor, DescriptorBuilder};
use tar::{EntryType, Header};

/// A store in a directory of its own, without fsync.
pub fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (dir, store)
}

pub fn open(root: &std::path::Path) -> ImageStore {
    ImageStore::open(&root.join("data"))
        .unwrap()
        .with_durability(Durability::None)
}

pub fn limited(change: impl FnOnce(&mut Limits)) -> (tempfile::TempDir, ImageStore) {
    let (dir, store) = store();
    let mut limits = Limits::default();
    change(&mut limits);
    (dir, store.with_limits(limits))
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tar archive, with any names: nothing is checked on the way.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn entry(
        mut self,
        kind: EntryType,
        path: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        let name = &mut header.as_gnu_mut().unwrap().name;
        assert!(
            path.len() < name.len(),
            "the tests need no long names but for those of `long`"
        );
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, content, |_| {})
    }

    pub fn dir(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, b"", |_| {})
    }

    pub fn dir_mode(self, path: &str, mode: u32, uid: u64) -> Self {
        self.entry(EntryType::Directory, path, b"", |h| {
            h.set_mode(mode);
            h.set_uid(uid);
        })
    }

    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, path, b"", |h| {
            h.set_link_name_literal(to).unwrap();
        })
    }

    pub fn hardlink(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Link, path, b"", |h| {
            h.set_link_name_literal(to).unwrap();
        })
    }

    /// PAX records for the entry that follows.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[cfg(feature = "zstd")]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

pub fn put(store: &ImageStore, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let mut writer = store.cas().begin(Algorithm::Sha256, u64::MAX).unwrap();
    writer.write_all(bytes).unwrap();
    writer.commit(&digest, None).unwrap();
    digest
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest: oci_spec::image::Digest = Digest::sha256(bytes).to_string().parse().unwrap();
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(bytes.len() as u64)
        .build()
        .unwrap()
}

/// A layer: the archive and what its blob is.
pub struct TestLayer {
    pub plain: Vec<u8>,
    pub blob: Vec<u8>,
}

impl From<Tar> for TestLayer {
    fn from(tar: Tar) -> Self {
        let plain = tar.done();
        Self {
            blob: plain.clone(),
            plain,
        }
    }
}

/// The documents of an image of these layers: configuration and manifest.
pub fn documents(layers: &[TestLayer]) -> (Vec<u8>, Vec<u8>) {
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|l| Digest::sha256(&l.plain).to_string())
        .collect();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap();
    let layers: Vec<_> = layers
        .iter()
        .map(|l| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &l.blob))
        .collect();
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers,
    }))
    .unwrap();
    (config, manifest)
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn try_image(store: &ImageStore, name: &str, layers: Vec<TestLayer>) -> magik_image::Result<Image> {
    let _lease = store.cas().lease().unwrap();
    for layer in &layers {
        put(store, &layer.blob);
    }
    let (config, manifest) = documents(&layers);
    put(store, &config);
    put(store, &manifest);
    store.tag(&name.parse().unwrap(), &descriptor(MANIFEST, &manifest))
}

/// An image of plain layers, the lowest first.
pub fn image(store: &ImageStore, name: &str, layers: Vec<Tar>) -> Image {
    try_image(store, name, layers.into_iter().map(TestLayer::from).collect()).unwrap()
}

/// Every name in a directory of the store that is not a complete part of it.
pub fn leftovers(store: &ImageStore) -> Vec<String> {
    let names = |dir: PathBuf| {
        let names = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let mut left = names(store.root().join("tmp"));
    left.extend(
        names(store.root().join("layers"))
            .into_iter()
            .filter(|n| n.ends_with(".tmp")),
    );
    left
}
