//! Directories, OCI archives and Docker archives that are not as they should be.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Cases, Form, LAYER, Parts, config, damaged, plain, position};
use crate::tarball::{Entry, Tar, gzip};

/// Writes a good image whose layer something else is made in the place of.
fn layer_that_is(make: impl Fn(&Path) -> Result<()>) -> impl Fn(&Path) -> Result<()> {
    move |path| {
        let parts = Parts::good();
        parts.write(path)?;
        let layer = path.join(&parts.files[position(LAYER)].0);
        fs::remove_file(&layer)?;
        make(&layer)
    }
}

pub(super) fn directories(cases: &mut Cases, canary: &str) {
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
        layer_that_is(move |path| Ok(symlink(&secret, path)?)),
    );
    cases.push(
        "blob-that-is-a-fifo",
        Form::Directory,
        "not a regular file",
        layer_that_is(|path| {
            Ok(rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )?)
        }),
    );
    cases.push(
        "blob-that-is-a-directory",
        Form::Directory,
        "not a regular file",
        layer_that_is(|path| Ok(fs::create_dir(path)?)),
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

pub(super) fn archives(cases: &mut Cases, canary: &str) {
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

pub(super) fn docker(cases: &mut Cases, canary: &str) {
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
