//! Manifests, indexes, configurations and digests that lie.

use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::{
    ARCHITECTURE, CONFIG, Cases, INDEX, LAYER, MANIFEST, Parts, blob, config, damaged, manifest_of, plain,
    sha256, without,
};
use crate::tarball::gzip;

fn manifest(change: impl Fn(&mut Value) + 'static) -> impl Fn() -> Parts {
    move || Parts::image(|_| {}, &change)
}

pub(super) fn documents(cases: &mut Cases) {
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

pub(super) fn digests(cases: &mut Cases) {
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

pub(super) fn indexes(cases: &mut Cases) {
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

pub(super) fn configs(cases: &mut Cases) {
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
