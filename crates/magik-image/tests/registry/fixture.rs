//! Images and stores for the tests.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    path::Path,
    time::Duration,
};

use magik_cas::{Digest, Durability};
use magik_image::{
    ImageStore, Reference,
    auth::{AuthSource, Credential},
    connect::ConnectOptions,
    manifest::{OCI_INDEX, OCI_MANIFEST},
    policy::{Policy, PolicySource},
    pull::{PullOptions, PullPolicy},
    registries::{Registries, RegistriesSource},
};
use serde_json::{Value, json};

use crate::server::{Reply, Request};

pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A store in a directory of its own.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) store: ImageStore,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path())
            .unwrap()
            .with_durability(Durability::None);
        // Lock files stay; they are made before anything is counted.
        drop(store.cas().lease().unwrap());
        Self { dir, store }
    }

    /// Every file of the store with its size.
    pub(crate) fn census(&self) -> BTreeMap<String, u64> {
        census(self.dir.path())
    }
}

/// Every file below a directory with its size.
pub(crate) fn census(dir: &Path) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    walk(dir, &mut files);
    files
}

/// A layer that is an archive of these files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn walk(dir: &Path, files: &mut BTreeMap<String, u64>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            walk(&entry.path(), files);
        }
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        files.insert(entry.path().display().to_string(), size);
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len()})
}

/// An image's documents and blobs, as a registry serves them.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) manifest: Value,
    pub(crate) blobs: HashMap<String, Vec<u8>>,
}

impl Served {
    /// An image with these layers.
    pub(crate) fn new(layers: &[&[u8]]) -> Self {
        let ids: Vec<String> = layers
            .iter()
            .map(|layer| Digest::sha256(layer).to_string())
            .collect();
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let config =
            json!({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        });
        let blobs = layers.iter().map(|l| l.to_vec()).chain([config]);
        let blobs = blobs
            .map(|bytes| (Digest::sha256(&bytes).to_string(), bytes))
            .collect();
        Self { manifest, blobs }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.manifest.to_string().into_bytes()
    }

    /// Answers as an honest registry that has only this image.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        let known = ["latest".to_owned(), Digest::sha256(&self.bytes()).to_string()];
        if request.path.contains("/manifests/") && known.iter().any(|tag| tag == name) {
            return Reply::ok(OCI_MANIFEST, self.bytes());
        }
        match self.blobs.get(name) {
            Some(blob) => Reply::ok("application/octet-stream", blob.clone()),
            None => Reply::status(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#,
            ),
        }
    }
}

/// An index with these entries.
pub(crate) fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

/// Options that know no credentials of this machine's user; a busy machine is no stall.
pub(crate) fn options() -> PullOptions {
    let mut connect = connect(&AuthSource::Given(Credential::Anonymous));
    connect.timeout = Duration::from_secs(30);
    connect.idle_timeout = Duration::from_secs(10);
    connect.concurrency = NonZeroUsize::new(3).unwrap();
    PullOptions {
        policy: PullPolicy::Always,
        signature_policy: PolicySource::Given(Policy::accept_anything()),
        connect,
        // These layers are no archives.
        unpack: false,
        ..PullOptions::default()
    }
}

/// What is the same for pulling and pushing: nothing of this machine's configuration.
pub(crate) fn connect(auth: &AuthSource) -> ConnectOptions {
    let mut connect = PullOptions::default().connect;
    connect.auth = auth.clone();
    connect.registries = RegistriesSource::Given(Registries::default());
    connect
}

pub(crate) fn reference(address: &str) -> Reference {
    format!("{address}/test/image").parse().unwrap()
}

/// The same, waiting no longer than a test should.
pub(crate) fn impatient() -> PullOptions {
    within(|connect| connect.idle_timeout = Duration::from_millis(800))
}

/// The options with another way of reaching registries.
pub(crate) fn within(change: impl FnOnce(&mut ConnectOptions)) -> PullOptions {
    let mut options = options();
    change(&mut options.connect);
    options
}
