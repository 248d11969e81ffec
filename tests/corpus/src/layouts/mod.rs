//! Image layouts in directories and archives.

mod documents;
mod places;

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Expected,
    tarball::{Entry, Tar, gzip},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// What a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory with an OCI image layout.
    Directory,
    /// A tar file with one.
    OciArchive,
    /// A tar file as `docker save` writes it.
    DockerArchive,
}

type Write = Box<dyn Fn(&Path) -> Result<()>>;

/// A layout, and what must become of it.
pub struct Case {
    /// What it is called, a file name.
    pub name: &'static str,
    /// What kind of thing [`write`](Self::write) makes.
    pub form: Form,
    /// What must become of it; the root filesystem of those that are taken is `f=x`.
    pub expected: Expected,
    write: Write,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?}, {:?})", self.name, self.form, self.expected)
    }
}

impl Case {
    /// Writes it to `path`, which does not exist.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> Result<()> {
        (self.write)(path)
    }
}

/// The parts of a layout, each of which a case may change.
#[derive(Debug, Clone)]
struct Parts {
    version: Value,
    index: Value,
    /// Files by their paths.
    files: Vec<(String, Vec<u8>)>,
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (
        format!("blobs/{}", sha256(bytes).replace(':', "/")),
        bytes.to_vec(),
    )
}

fn plain() -> Vec<u8> {
    Tar::new().file("f", "x").done()
}

fn config() -> Value {
    json!({"architecture": ARCHITECTURE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(&plain())]}})
}

fn manifest_of(config: &[u8], layer: &[u8]) -> Value {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config), "layers": [descriptor(LAYER, layer)]})
}

impl Parts {
    /// A good image with these changes to its configuration and its manifest.
    fn image(change_config: impl FnOnce(&mut Value), change_manifest: impl FnOnce(&mut Value)) -> Self {
        let layer = gzip(&plain());
        let mut config = config();
        change_config(&mut config);
        let config = config.to_string().into_bytes();
        let mut manifest = manifest_of(&config, &layer);
        change_manifest(&mut manifest);
        let manifest = manifest.to_string().into_bytes();
        Self::of(&manifest, MANIFEST, vec![blob(&config), blob(&layer)])
    }

    /// A layout whose index names this document.
    fn of(document: &[u8], media_type: &str, mut files: Vec<(String, Vec<u8>)>) -> Self {
        files.push(blob(document));
        Self {
            version: json!({"imageLayoutVersion": "1.0.0"}),
            index: json!({"schemaVersion": 2, "manifests": [descriptor(media_type, document)]}),
            files,
        }
    }

    fn good() -> Self {
        Self::image(|_| {}, |_| {})
    }

    /// A good image behind these descriptors of its manifest, the innermost first.
    fn behind(indexes: usize) -> Self {
        let mut parts = Self::good();
        for _ in 0..indexes {
            let document =
                json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": parts.index["manifests"]});
            let document = document.to_string().into_bytes();
            parts.index["manifests"] = json!([descriptor(INDEX, &document)]);
            parts.files.push(blob(&document));
        }
        parts
    }

    fn all_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = vec![
            ("oci-layout".to_owned(), self.version.to_string().into_bytes()),
            ("index.json".to_owned(), self.index.to_string().into_bytes()),
        ];
        files.extend(self.files.iter().cloned());
        files
    }

    fn write(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in self.all_files() {
            let path = dir.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, bytes)?;
        }
        Ok(())
    }

    fn tar(&self) -> Tar {
        let files = self.all_files();
        files.iter().fold(Tar::new(), |tar, (name, bytes)| {
            tar.add(&Entry::file(name, bytes))
        })
    }
}

struct Cases(Vec<Case>);

impl Cases {
    fn push(
        &mut self,
        name: &'static str,
        form: Form,
        refused: &'static str,
        write: impl Fn(&Path) -> Result<()> + 'static,
    ) {
        let expected = match refused {
            "" => Expected::Taken("f=x".to_owned()),
            reason => Expected::Refused(reason),
        };
        let write = Box::new(write);
        self.0.push(Case {
            name,
            form,
            expected,
            write,
        });
    }

    /// A layout in a directory; taken if there is no reason to refuse it.
    fn dir(&mut self, name: &'static str, make: impl Fn() -> Parts + 'static, refused: &'static str) {
        self.push(name, Form::Directory, refused, move |path| make().write(path));
    }

    fn archive(&mut self, name: &'static str, make: impl Fn() -> Tar + 'static, refused: &'static str) {
        self.push(name, Form::OciArchive, refused, move |path| {
            Ok(fs::write(path, make().done())?)
        });
    }

    fn docker(&mut self, name: &'static str, make: impl Fn() -> Tar + 'static, refused: &'static str) {
        self.push(name, Form::DockerArchive, refused, move |path| {
            Ok(fs::write(path, make().done())?)
        });
    }
}

/// All cases. `canary` is the absolute path of a directory with a file `secret`, outside of everything.
#[must_use]
pub fn cases(canary: &str) -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    documents::documents(&mut cases);
    documents::digests(&mut cases);
    documents::indexes(&mut cases);
    documents::configs(&mut cases);
    places::directories(&mut cases, canary);
    places::archives(&mut cases, canary);
    places::docker(&mut cases, canary);
    cases.0
}

/// Which file of a good image a media type means: it has its configuration, its layer and its manifest, in this order.
fn position(media_type: &str) -> usize {
    match media_type {
        CONFIG => 0,
        LAYER => 1,
        _ => 2,
    }
}

fn damaged(media_type: &str, change: impl FnOnce(&mut Vec<u8>)) -> Parts {
    let mut parts = Parts::good();
    change(&mut parts.files[position(media_type)].1);
    parts
}

fn without(media_type: &str) -> Parts {
    let mut parts = Parts::good();
    parts.files.remove(position(media_type));
    parts
}
