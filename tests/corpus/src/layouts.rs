//! Image layouts in directories and archives.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

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
    documents(&mut cases);
    digests(&mut cases);
    indexes(&mut cases);
    configs(&mut cases);
    directories(&mut cases, canary);
    archives(&mut cases, canary);
    docker(&mut cases, canary);
    cases.0
}

fn manifest(change: impl Fn(&mut Value) + 'static) -> impl Fn() -> Parts {
    move || Parts::image(|_| {}, &change)
}

fn documents(cases: &mut Cases) {
    cases.dir("good", Parts::good, "");
    cases.dir(
        "manifest-that-is-an-index-too",
        manifest(|m| m["manifests"] = json!([])),
        "CVE-2021-41190",
    );
    cases.dir(
        "manifest-given-as-an-index",
        || {
            let mut parts = Parts::good();
            parts.index["manifests"][0]["mediaType"] = INDEX.into();
            parts
        },
        "was given as",
    );
    cases.dir(
        "manifest-that-says-it-is-an-index",
        manifest(|m| m["mediaType"] = INDEX.into()),
        "was given as",
    );
    cases.dir(
        "manifest-without-media-type",
        manifest(|m| drop(m.as_object_mut().and_then(|m| m.remove("mediaType")))),
        "",
    );
    cases.dir(
        "manifest-with-a-key-twice",
        || {
            let layer = gzip(&plain());
            let config = config().to_string().into_bytes();
            let text = manifest_of(&config, &layer).to_string();
            let text = text.replacen('{', "{\"layers\":[],", 1);
            Parts::of(text.as_bytes(), MANIFEST, vec![blob(&config), blob(&layer)])
        },
        "duplicate field",
    );
    cases.dir("schema-1", || {
        let document = json!({"schemaVersion": 1, "name": "a", "tag": "b", "architecture": "amd64", "fsLayers": [], "history": []});
        Parts::of(document.to_string().as_bytes(), MANIFEST, vec![])
    }, "schema 1");
    cases.dir(
        "schema-3",
        manifest(|m| m["schemaVersion"] = 3.into()),
        "schemaVersion",
    );
    cases.dir(
        "artifact-by-its-config",
        manifest(|m| m["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()),
        "artifact of type",
    );
    cases.dir(
        "artifact-by-its-type",
        manifest(|m| {
            m["artifactType"] = "application/vnd.example".into();
            m["config"]["mediaType"] = "application/vnd.oci.empty.v1+json".into();
        }),
        "artifact of type",
    );
    cases.dir(
        "layer-that-is-none",
        manifest(|m| m["layers"][0]["mediaType"] = "application/wasm".into()),
        "not a layer",
    );
    cases.dir(
        "layer-encrypted",
        manifest(|m| m["layers"][0]["mediaType"] = format!("{LAYER}+encrypted").into()),
        "encrypted",
    );
    cases.dir(
        "layer-whose-type-names-another-compression",
        manifest(|m| m["layers"][0]["mediaType"] = LAYER.replace("gzip", "zstd").into()),
        "",
    );
    cases.dir(
        "layer-with-foreign-urls",
        manifest(|m| m["layers"][0]["urls"] = json!(["http://169.254.169.254/latest/meta-data"])),
        "",
    );
    cases.dir("annotations-absurd", manifest(|m| {
        m["annotations"] = json!({"org.opencontainers.image.ref.name": "../../../etc/passwd", "\u{0}": "\u{1b}[2J", "": "x".repeat(100_000)});
    }), "");
    cases.dir(
        "manifest-of-2-mib",
        manifest(|m| m["annotations"] = json!({"a": "x".repeat(2 << 20)})),
        "limit",
    );
    cases.dir(
        "manifest-nested-100000-deep",
        || Parts::of("[".repeat(100_000).as_bytes(), MANIFEST, vec![]),
        "manifest sha256",
    );
    cases.dir(
        "manifest-of-no-utf-8",
        || Parts::of(b"{\"schemaVersion\": 2, \"\xff\": 1}", MANIFEST, vec![]),
        "manifest sha256",
    );
    cases.dir(
        "layers-129",
        manifest(|m| m["layers"] = json!(vec![m["layers"][0].clone(); 129])),
        "more than 128",
    );
    cases.dir(
        "layers-twice-with-one-diff-id",
        manifest(|m| m["layers"] = json!(vec![m["layers"][0].clone(); 2])),
        "diff",
    );
    cases.dir(
        "layers-twice",
        || {
            Parts::image(
                |c| c["rootfs"]["diff_ids"] = json!(vec![sha256(&plain()); 2]),
                |m| m["layers"] = json!(vec![m["layers"][0].clone(); 2]),
            )
        },
        "",
    );
    cases.dir(
        "subject-is-not-followed",
        manifest(|m| {
            m["subject"] =
                json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 7});
        }),
        "",
    );
}

fn digests(cases: &mut Cases) {
    for (name, digest) in [
        (
            "digest-that-is-a-path",
            "sha256:../../../../etc/passwd".to_owned(),
        ),
        (
            "digest-of-an-unknown-algorithm",
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        ),
        ("digest-sha384", format!("sha384:{}", "0".repeat(96))),
        ("digest-in-capitals", sha256(&gzip(&plain())).to_uppercase()),
        ("digest-too-short", "sha256:abcd".to_owned()),
        ("digest-empty", String::new()),
    ] {
        cases.dir(
            name,
            manifest(move |m| m["layers"][0]["digest"] = digest.clone().into()),
            "manifest sha256",
        );
    }
    cases.dir(
        "digest-sha512",
        || {
            let layer = gzip(&plain());
            let digest = hex::encode(Sha512::digest(&layer));
            let path = format!("blobs/sha512/{digest}");
            let mut parts = Parts::image(
                |_| {},
                move |m| m["layers"][0]["digest"] = format!("sha512:{digest}").into(),
            );
            parts.files.push((path, layer));
            parts
        },
        "",
    );
    cases.dir(
        "layer-of-other-bytes",
        || damaged(LAYER, |bytes| bytes[20] ^= 1),
        "sha256:",
    );
    cases.dir(
        "config-of-other-bytes",
        || damaged(CONFIG, |bytes| bytes[20] ^= 1),
        "sha256:",
    );
    cases.dir(
        "manifest-of-other-bytes",
        || damaged(MANIFEST, |bytes| bytes[20] ^= 1),
        "sha256:",
    );
    cases.dir(
        "layer-longer-than-it-says",
        || damaged(LAYER, |bytes| bytes.push(0)),
        "sha256",
    );
    cases.dir(
        "layer-shorter-than-it-says",
        || damaged(LAYER, |bytes| bytes.truncate(bytes.len() - 1)),
        "sha256:",
    );
    cases.dir(
        "layer-size-lies",
        manifest(|m| m["layers"][0]["size"] = 1_000_000.into()),
        "sha256",
    );
    cases.dir(
        "layer-size-too-small",
        manifest(|m| m["layers"][0]["size"] = 10.into()),
        "blobs/sha256",
    );
    cases.dir(
        "layer-size-negative",
        manifest(|m| m["layers"][0]["size"] = (-1).into()),
        "manifest sha256",
    );
    cases.dir(
        "layer-size-of-64-bits",
        manifest(|m| m["layers"][0]["size"] = u64::MAX.into()),
        "limit",
    );
    cases.dir(
        "layer-size-a-text",
        manifest(|m| m["layers"][0]["size"] = "7".into()),
        "manifest sha256",
    );
    cases.dir(
        "layers-together-past-the-limit",
        manifest(|m| {
            let mut layer = m["layers"][0].clone();
            layer["size"] = (512 << 20).into();
            m["layers"] = json!(vec![layer; 9]);
        }),
        "together",
    );
    cases.dir(
        "config-size-past-the-limit",
        manifest(|m| m["config"]["size"] = (2 << 20).into()),
        "limit",
    );
    cases.dir("layer-missing", || without(LAYER), "blobs/sha256");
    cases.dir("config-missing", || without(CONFIG), "blobs/sha256");
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

fn indexes(cases: &mut Cases) {
    cases.dir("index-in-an-index", || Parts::behind(1), "");
    cases.dir("index-in-an-index-in-an-index", || Parts::behind(2), "");
    cases.dir("indexes-too-deep", || Parts::behind(3), "nested too deeply");
    cases.dir(
        "index-that-loops",
        || {
            // A digest cannot be known before it is computed, so the loop is in the files.
            let mut parts = Parts::behind(1);
            let (last, looped) = (parts.files.len() - 1, parts.index.to_string().into_bytes());
            parts.files[last].1 = looped;
            parts
        },
        "sha256:",
    );
    cases.dir(
        "index-of-nothing",
        || {
            Parts::of(
                json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
                    .to_string()
                    .as_bytes(),
                INDEX,
                vec![],
            )
        },
        "no image for",
    );
    cases.dir(
        "index-of-other-platforms",
        || {
            let mut parts = Parts::good();
            parts.index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
            parts
        },
        "only for linux/s390x",
    );
    cases.dir(
        "index-that-lies-about-the-platform",
        || {
            let mut parts = Parts::image(|c| c["architecture"] = "s390x".into(), |_| {});
            parts.index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": ARCHITECTURE});
            parts
        },
        "s390x",
    );
    cases.dir(
        "index-with-a-newer-variant-first",
        || {
            let mut parts = Parts::good();
            let mut newer = parts.index["manifests"][0].clone();
            newer["digest"] = format!("sha256:{}", "0".repeat(64)).into();
            newer["platform"] = json!({"os": "linux", "architecture": ARCHITECTURE, "variant": "v9"});
            parts.index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": ARCHITECTURE});
            let good = parts.index["manifests"][0].clone();
            parts.index["manifests"] = json!([newer, good]);
            parts
        },
        "",
    );
    cases.dir(
        "index-with-attestations",
        || {
            let mut parts = Parts::good();
            let good = parts.index["manifests"][0].clone();
            let mut attestation = good.clone();
            attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
            attestation["digest"] = format!("sha256:{}", "0".repeat(64)).into();
            parts.index["manifests"] = json!([attestation, good]);
            parts
        },
        "",
    );
    cases.dir(
        "index-of-several-images",
        || {
            let mut parts = Parts::good();
            let named = |name: &str| {
                let mut entry = Parts::good().index["manifests"][0].clone();
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
                entry
            };
            parts.index["manifests"] = json!([named("a"), named("b")]);
            parts
        },
        "several images",
    );
    cases.dir(
        "index-of-2-mib",
        || {
            let mut parts = Parts::good();
            parts.index["annotations"] = json!({"a": "x".repeat(2 << 20)});
            parts
        },
        "limit",
    );
    cases.dir(
        "index-with-10000-entries",
        || {
            let mut parts = Parts::good();
            let mut other =
                json!({"mediaType": MANIFEST, "size": 1, "platform": {"os": "linux", "architecture": "a"}});
            other["digest"] = format!("sha256:{}", "0".repeat(64)).into();
            let mut entries = vec![other; 5_000];
            entries.push(parts.index["manifests"][0].clone());
            parts.index["manifests"] = entries.into();
            parts
        },
        "",
    );
    cases.dir(
        "layout-of-version-2",
        || {
            let mut parts = Parts::good();
            parts.version = json!({"imageLayoutVersion": "2.0.0"});
            parts
        },
        "not supported",
    );
}

fn configs(cases: &mut Cases) {
    let config = |change: fn(&mut Value)| move || Parts::image(change, |_| {});
    cases.dir(
        "config-with-too-many-diff-ids",
        config(|c| c["rootfs"]["diff_ids"] = json!(vec![sha256(b"a"); 2])),
        "diff",
    );
    cases.dir(
        "config-with-too-few-diff-ids",
        config(|c| c["rootfs"]["diff_ids"] = json!([])),
        "diff",
    );
    cases.dir(
        "config-with-a-diff-id-that-is-none",
        config(|c| c["rootfs"]["diff_ids"] = json!(["../../x"])),
        "diff_ids[0]",
    );
    cases.dir(
        "config-with-another-diff-id",
        config(|c| c["rootfs"]["diff_ids"] = json!([sha256(b"a")])),
        "the image's configuration says",
    );
    cases.dir(
        "config-with-another-rootfs-type",
        config(|c| c["rootfs"]["type"] = "squashfs".into()),
        "rootfs.type",
    );
    cases.dir(
        "config-without-rootfs",
        config(|c| drop(c.as_object_mut().and_then(|c| c.remove("rootfs")))),
        "rootfs",
    );
    cases.dir(
        "config-for-another-system",
        config(|c| c["os"] = "windows".into()),
        "windows",
    );
    cases.dir(
        "config-with-absurd-history",
        config(|c| {
            c["history"] = json!(vec![
                json!({"created_by": "\u{1b}[2J", "empty_layer": false});
                1000
            ]);
        }),
        "",
    );
    cases.dir("config-of-nulls", config(|c| c["config"] = json!({"Env": null, "Cmd": null, "Entrypoint": null, "Labels": null, "Volumes": null, "ExposedPorts": null})), "");
    cases.dir(
        "config-of-wrong-types",
        config(|c| c["config"] = json!({"Env": 5})),
        "config sha256",
    );
}

fn directories(cases: &mut Cases, canary: &str) {
    cases.push(
        "directory-without-oci-layout",
        Form::Directory,
        "not an OCI image layout",
        |path| {
            Parts::good().write(path)?;
            Ok(fs::remove_file(path.join("oci-layout"))?)
        },
    );
    let secret = format!("{canary}/secret");
    cases.push(
        "blob-that-is-a-symlink-out",
        Form::Directory,
        "sha256:",
        move |path| {
            let parts = Parts::good();
            parts.write(path)?;
            let layer = path.join(&parts.files[position(LAYER)].0);
            fs::remove_file(&layer)?;
            Ok(symlink(&secret, layer)?)
        },
    );
    cases.push(
        "blob-that-is-a-fifo",
        Form::Directory,
        "not a regular file",
        |path| {
            let parts = Parts::good();
            parts.write(path)?;
            let layer = path.join(&parts.files[position(LAYER)].0);
            fs::remove_file(&layer)?;
            Ok(rustix::fs::mknodat(
                rustix::fs::CWD,
                &layer,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )?)
        },
    );
    cases.push(
        "blob-that-is-a-directory",
        Form::Directory,
        "not a regular file",
        |path| {
            let parts = Parts::good();
            parts.write(path)?;
            let layer = path.join(&parts.files[position(LAYER)].0);
            fs::remove_file(&layer)?;
            Ok(fs::create_dir(layer)?)
        },
    );
    cases.push(
        "index-that-has-no-end",
        Form::Directory,
        "not a regular file",
        |path| {
            Parts::good().write(path)?;
            fs::remove_file(path.join("index.json"))?;
            Ok(symlink("/dev/zero", path.join("index.json"))?)
        },
    );
}

fn archives(cases: &mut Cases, canary: &str) {
    let good = || Parts::good().tar();
    cases.archive("archive-good", good, "");
    cases.push("archive-in-gzip", Form::OciArchive, "", |path| {
        Ok(fs::write(path, gzip(&Parts::good().tar().done()))?)
    });
    cases.archive(
        "archive-with-dot-slash",
        || {
            let files = Parts::good().all_files();
            files.iter().fold(Tar::new(), |tar, (name, bytes)| {
                tar.add(&Entry::file(format!("./{name}"), bytes))
            })
        },
        "",
    );
    cases.archive(
        "archive-with-a-name-that-leads-out",
        move || good().file("../evil", "x"),
        "\"..\"",
    );
    cases.archive(
        "archive-with-an-absolute-name",
        move || good().file("/tmp/evil", "x"),
        "",
    );
    cases.archive(
        "archive-with-devices",
        move || {
            good()
                .add(&Entry::new(b'3', "dev").device(1, 3))
                .add(&Entry::new(b'6', "fifo"))
        },
        "",
    );
    let secret = format!("{canary}/secret");
    cases.archive(
        "archive-whose-index-is-a-symlink-out",
        move || {
            let parts = Parts::good();
            let files = parts.all_files();
            let rest = files.iter().filter(|(name, _)| name != "index.json");
            rest.fold(Tar::new().symlink("index.json", &secret), |tar, (name, bytes)| {
                tar.add(&Entry::file(name, bytes))
            })
        },
        "no file \"index.json\"",
    );
    cases.archive(
        "archive-of-links-that-loop",
        || {
            Tar::new()
                .file("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}")
                .symlink("index.json", "a")
                .symlink("a", "index.json")
        },
        "no file \"index.json\"",
    );
    cases.archive(
        "archive-with-10001-members",
        move || (0..10_001).fold(good(), |tar, n| tar.file(&format!("{n}"), "")),
        "more than 10000",
    );
    cases.archive(
        "archive-with-a-sparse-blob",
        || Tar::new().add(&Entry::new(b'S', "oci-layout").raw(483, b"00000100000\0")),
        "sparse",
    );
    cases.archive(
        "archive-with-a-blob-of-other-bytes",
        || damaged(LAYER, |bytes| bytes[20] ^= 1).tar(),
        "expected sha256",
    );
    cases.push(
        "archive-cut-off",
        Form::OciArchive,
        "not a readable tar archive",
        |path| {
            let bytes = Parts::good().tar().done();
            Ok(fs::write(path, &bytes[..bytes.len() - 2000])?)
        },
    );
    cases.push(
        "archive-that-is-none",
        Form::OciArchive,
        "not a readable tar archive",
        |path| Ok(fs::write(path, "no archive ".repeat(100))?),
    );
    cases.push("archive-that-is-empty", Form::OciArchive, "no file", |path| {
        Ok(fs::write(path, "")?)
    });
}

/// What `docker save` writes, with this list of images and these further files.
fn saved(list: &Value, more: &[(&str, &[u8])]) -> Tar {
    let tar = Tar::new()
        .add(&Entry::file("manifest.json", list.to_string()))
        .add(&Entry::file("config.json", config().to_string()))
        .add(&Entry::file("layer.tar", plain()));
    more.iter()
        .fold(tar, |tar, (name, bytes)| tar.add(&Entry::file(name, bytes)))
}

fn docker(cases: &mut Cases, canary: &str) {
    let list = |config: &str, layers: &[&str]| json!([{"Config": config, "RepoTags": ["localhost/a:b"], "Layers": layers}]);
    cases.docker(
        "docker-good",
        move || saved(&list("config.json", &["layer.tar"]), &[]),
        "",
    );
    cases.docker(
        "docker-whose-config-is-a-path-out",
        move || saved(&list("../../etc/passwd", &["layer.tar"]), &[]),
        "no file",
    );
    cases.docker(
        "docker-whose-layer-is-a-path-out",
        move || saved(&list("config.json", &["/etc/passwd"]), &[]),
        "no file",
    );
    let secret = format!("{canary}/secret");
    cases.docker(
        "docker-whose-layer-is-a-symlink-out",
        move || saved(&list("config.json", &["l/layer.tar"]), &[]).symlink("l/layer.tar", &secret),
        "no file",
    );
    cases.docker(
        "docker-whose-layer-is-a-symlink-inside",
        move || saved(&list("config.json", &["l/layer.tar"]), &[]).symlink("l/layer.tar", "../layer.tar"),
        "",
    );
    cases.docker(
        "docker-with-too-many-layers",
        move || saved(&list("config.json", &["layer.tar"; 2]), &[]),
        "names 1 layers",
    );
    cases.docker(
        "docker-with-129-layers",
        move || saved(&list("config.json", &["layer.tar"; 129]), &[]),
        "more than 128",
    );
    cases.docker(
        "docker-with-another-layer",
        move || saved(&list("config.json", &["other"]), &[("other", b"something else")]),
        "the image's configuration says",
    );
    cases.docker(
        "docker-whose-config-is-not-its-name",
        move || {
            let name = format!("{}.json", "0".repeat(64));
            saved(
                &list(&name, &["layer.tar"]),
                &[(&name, config().to_string().as_bytes())],
            )
        },
        "not its name",
    );
    cases.docker("docker-without-images", || saved(&json!([]), &[]), "no image");
    cases.docker("docker-with-tags-that-are-none", || {
        saved(&json!([{"Config": "config.json", "RepoTags": ["../../etc", "A B", ""], "Layers": ["layer.tar"]}]), &[])
    }, "");
    cases.docker(
        "docker-list-of-wrong-types",
        || saved(&json!({"Config": 1}), &[]),
        "manifest.json",
    );
}
