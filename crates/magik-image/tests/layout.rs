//! Images in files, in and out, and files that lie.
#![allow(missing_docs, clippy::print_stderr)]

mod store_support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use magik_cas::Digest;
use magik_image::{
    Error, Image, ImageStore, Limits,
    layout::{self, ImportOptions, SaveFormat},
};
use store_support::{Tar, TestLayer, documents, gzip, image, leftovers, limited, store, try_image, zstd};

fn sample(store: &ImageStore, name: &str) -> Image {
    let (a, b) = (
        Tar::new().file("a", b"lower").done(),
        Tar::new().file("b", b"upper").done(),
    );
    let layers = vec![
        TestLayer {
            blob: gzip(&a),
            plain: a,
        },
        TestLayer {
            blob: zstd(&b),
            plain: b,
        },
    ];
    try_image(store, name, layers).unwrap()
}

fn options(tag: Option<&str>) -> ImportOptions {
    ImportOptions {
        tag: tag.map(str::to_owned),
        ..ImportOptions::default()
    }
}

fn content(store: &ImageStore, image: &Image, name: &str) -> String {
    let trees = store.unpack_blocking(image, "test").unwrap();
    let path = trees.iter().map(|t| t.join(name)).find(|p| p.exists()).unwrap();
    fs::read_to_string(path).unwrap()
}

/// Nothing of a failed import is in the store.
fn assert_empty(store: &ImageStore, what: &str) {
    assert!(store.cas().list().unwrap().is_empty(), "{what}");
    assert!(store.list().unwrap().is_empty(), "{what}");
    assert!(leftovers(store).is_empty(), "{what}");
}

#[test]
fn what_is_saved_is_loaded_again_in_every_format() {
    let (dir, from) = store();
    let saved = sample(&from, "localhost/app:v1");
    for format in [
        SaveFormat::OciDir,
        SaveFormat::OciArchive,
        SaveFormat::DockerArchive,
    ] {
        let file = dir.path().join(format!("{format:?}"));
        layout::save(&from, &saved, &file, format).unwrap();
        let (_dir, to) = store();
        let loaded = match format {
            SaveFormat::OciDir => layout::import_oci_dir(&to, &file, &options(Some("v1"))).unwrap(),
            SaveFormat::OciArchive => layout::import_oci_archive(&to, &file, &options(None)).unwrap(),
            SaveFormat::DockerArchive => layout::import_docker_archive(&to, &file, &options(None))
                .unwrap()
                .remove(0),
        };
        assert_eq!(loaded.name(), "localhost/app:v1", "{format:?}");
        assert_eq!(loaded.config_digest, saved.config_digest, "{format:?}");
        if format != SaveFormat::DockerArchive {
            assert_eq!(loaded.manifest_digest, saved.manifest_digest, "{format:?}");
            let again = dir.path().join("again");
            layout::save(&to, &loaded, &again, SaveFormat::OciArchive).unwrap();
            if format == SaveFormat::OciArchive {
                assert_eq!(
                    fs::read(&again).unwrap(),
                    fs::read(&file).unwrap(),
                    "archives are reproducible"
                );
            }
        }
        assert_eq!(content(&to, &loaded, "a"), "lower");
        assert_eq!(content(&to, &loaded, "b"), "upper");
        assert!(leftovers(&to).is_empty() && to.verify().unwrap().is_empty());
        assert!(leftovers(&from).is_empty());
    }
}

#[test]
fn archives_may_be_compressed_as_a_whole() {
    let (dir, from) = store();
    let saved = sample(&from, "app:v1");
    for format in [SaveFormat::OciArchive, SaveFormat::DockerArchive] {
        let mut bytes = Vec::new();
        layout::write_archive(&from, &saved, &mut bytes, format).unwrap();
        for compressed in [gzip(&bytes), zstd(&bytes)] {
            let file = dir.path().join("archive");
            fs::write(&file, compressed).unwrap();
            let (_dir, to) = store();
            let loaded = layout::load(&to, &file, &options(None)).unwrap();
            assert_eq!(loaded[0].config_digest, saved.config_digest);
        }
    }
}

#[test]
fn a_layout_directory_holds_several_images_by_tag() {
    let (dir, from) = store();
    let layout_dir = dir.path().join("layout");
    let first = sample(&from, "app:v1");
    let second = image(&from, "app:v2", vec![Tar::new().file("c", b"")]);
    for image in [&first, &second, &first] {
        layout::save(&from, image, &layout_dir, SaveFormat::OciDir).unwrap();
    }
    let (_dir, to) = store();
    let import = |tag| layout::import_oci_dir(&to, &layout_dir, &options(tag));
    let error = import(None).unwrap_err().to_string();
    assert!(
        error.contains("several images") && error.contains("v1") && error.contains("v2"),
        "{error}"
    );
    assert_eq!(import(Some("v1")).unwrap().config_digest, first.config_digest);
    assert_eq!(
        import(Some("docker.io/library/app:v2")).unwrap().config_digest,
        second.config_digest
    );
    let error = import(Some("v3")).unwrap_err().to_string();
    assert!(error.contains("\"v3\""), "{error}");
    let named = ImportOptions {
        name: Some("other:name".parse().unwrap()),
        ..options(Some("v1"))
    };
    let image = layout::import_oci_dir(&to, &layout_dir, &named).unwrap();
    assert_eq!(image.name(), "docker.io/library/other:name");
}

/// A docker archive, file by file.
struct Docker {
    tar: Tar,
    config: Vec<u8>,
    plain: Vec<u8>,
}

impl Docker {
    fn new() -> Self {
        let plain = Tar::new().file("hello", b"world").done();
        let (config, _) = documents(&[TestLayer {
            blob: plain.clone(),
            plain: plain.clone(),
        }]);
        Self {
            tar: Tar::new(),
            config,
            plain,
        }
    }

    fn config_name(&self) -> String {
        format!("{}.json", Digest::sha256(&self.config).hex())
    }

    fn manifest(&self, config: &str, layer: &str, tags: &serde_json::Value) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": [layer]}]))
            .unwrap()
    }
}

/// Names longer than the old header's are given as PAX records.
fn long(tar: Tar, name: &str, content: &[u8]) -> Tar {
    tar.pax(&[("path", name.as_bytes())]).file("x", content)
}

fn write(dir: &Path, tar: Tar) -> PathBuf {
    let file = dir.join("archive.tar");
    fs::write(&file, tar.done()).unwrap();
    file
}

#[test]
fn reads_docker_save_of_old_and_new_and_podmans_links() {
    let tags = serde_json::json!(["app:v1", "registry.example/app:v2"]);
    let (dir, to) = store();
    let d = Docker::new();
    let config = d.config_name();
    let hex = Digest::sha256(&d.plain).hex();
    // Docker before 25: a directory for each layer.
    let old = Docker::new()
        .tar
        .dir("id")
        .file("id/VERSION", b"1.0")
        .file("id/layer.tar", &d.plain)
        .file("repositories", b"{}");
    let old =
        long(old, &config, &d.config).file("manifest.json", &d.manifest(&config, "id/layer.tar", &tags));
    // Docker since 25: blobs.
    let blobs = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let (c, l) = (
        blobs(&Digest::sha256(&d.config)),
        blobs(&Digest::sha256(&d.plain)),
    );
    let new =
        long(long(Tar::new(), &c, &d.config), &l, &d.plain).file("manifest.json", &d.manifest(&c, &l, &tags));
    // podman and skopeo: a file for each layer, and a link where docker's would be; the manifest first.
    let tar_name = format!("{hex}.tar");
    let podman = Tar::new().file("manifest.json", &d.manifest(&config, "id/layer.tar", &tags));
    let podman = long(long(podman, &config, &d.config), &tar_name, &d.plain);
    let podman = podman
        .dir("id")
        .symlink("id/layer.tar", &format!("../{tar_name}"));
    for archive in [old, new, podman] {
        let file = write(dir.path(), archive);
        let images = layout::import_docker_archive(&to, &file, &options(None)).unwrap();
        let names: Vec<_> = images.iter().map(Image::name).collect();
        assert_eq!(names, ["docker.io/library/app:v1", "registry.example/app:v2"]);
        assert_eq!(images[0].config_digest, Digest::sha256(&d.config));
        assert_eq!(content(&to, &images[0], "hello"), "world");
        assert!(leftovers(&to).is_empty());
        // Only the image's blobs were kept.
        assert_eq!(to.cas().list().unwrap().len(), 3);
    }
    let one = layout::import_docker_archive(&to, &dir.path().join("archive.tar"), &options(Some("app:v1")))
        .unwrap();
    assert_eq!(one.len(), 1);
}

#[test]
fn docker_archives_that_lie_are_refused_and_leave_nothing() {
    let (dir, to) = store();
    let tags = serde_json::json!(["app:v1"]);
    let d = Docker::new();
    let config = d.config_name();
    let other = Digest::sha256(b"other").hex();
    let base = || long(Tar::new(), &config, &d.config).file("layer.tar", &d.plain);
    let manifest = |config: &str, layer: &str| d.manifest(config, layer, &tags);
    let cases = [
        ("no manifest", base(), "manifest.json"),
        (
            "manifest is no JSON",
            base().file("manifest.json", b"[{"),
            "manifest.json",
        ),
        ("empty list", base().file("manifest.json", b"[]"), "no image"),
        (
            "config is missing",
            base().file("manifest.json", &manifest("x.json", "layer.tar")),
            "x.json",
        ),
        (
            "layer is missing",
            base().file("manifest.json", &manifest(&config, "y.tar")),
            "y.tar",
        ),
        (
            "config is not what its name says",
            long(base(), &format!("{other}.json"), &d.config)
                .file("manifest.json", &manifest(&format!("{other}.json"), "layer.tar")),
            "not its name",
        ),
        (
            "layer is not the config's",
            base()
                .file("bad.tar", b"something else")
                .file("manifest.json", &manifest(&config, "bad.tar")),
            "configuration says",
        ),
        (
            "layer leads outside",
            base()
                .symlink("l.tar", "../../../etc/passwd")
                .file("manifest.json", &manifest(&config, "l.tar")),
            "l.tar",
        ),
        (
            "links in a circle",
            base()
                .symlink("l.tar", "m.tar")
                .symlink("m.tar", "l.tar")
                .file("manifest.json", &manifest(&config, "l.tar")),
            "l.tar",
        ),
        ("path with dots", base().file("../x", b""), "\"..\""),
    ];
    for (what, archive, reason) in cases {
        let file = write(dir.path(), archive);
        let error = layout::import_docker_archive(&to, &file, &options(None))
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{what}: {error}");
        assert!(!error.contains('\n'), "{what}: {error}");
        assert_empty(&to, what);
    }
    fs::write(dir.path().join("garbage"), [7; 5000]).unwrap();
    for path in ["garbage", "missing", "data"] {
        assert!(
            layout::load(&to, &dir.path().join(path), &options(None)).is_err(),
            "{path}"
        );
    }
}

/// The files of an OCI layout, to be changed and packed again.
fn layout_dir(dir: &Path) -> (PathBuf, Image) {
    let (_from_dir, from) = store();
    let saved = sample(&from, "app:v1");
    let path = dir.join("layout");
    fs::remove_dir_all(&path).ok();
    layout::save(&from, &saved, &path, SaveFormat::OciDir).unwrap();
    (path, saved)
}

fn pack(dir: &Path) -> PathBuf {
    let file = dir.parent().unwrap().join("packed.tar");
    let mut builder = tar::Builder::new(fs::File::create(&file).unwrap());
    builder.append_dir_all(".", dir).unwrap();
    builder.finish().unwrap();
    file
}

#[test]
fn layouts_that_lie_are_refused_and_leave_nothing() {
    let (dir, to) = store();
    type Change = fn(&Path, &Image);
    fn at(dir: &Path, digest: &Digest) -> PathBuf {
        dir.join(format!("blobs/sha256/{}", digest.hex()))
    }
    fn edit_index(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = dir.join("index.json");
        let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut index);
        fs::write(&path, serde_json::to_vec(&index).unwrap()).unwrap();
    }
    let cases: Vec<(&str, Change)> = vec![
        ("a layer is missing", |d, i| {
            fs::remove_file(at(d, &i.layers()[1].digest)).unwrap();
        }),
        ("a layer has other bytes of the same length", |d, i| {
            let path = at(d, &i.layers()[0].digest);
            let mut bytes = fs::read(&path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("a layer is longer", |d, i| {
            let path = at(d, &i.layers()[0].digest);
            let bytes = [fs::read(&path).unwrap(), vec![0]].concat();
            fs::write(path, bytes).unwrap();
        }),
        ("a layer is shorter", |d, i| {
            let path = at(d, &i.layers()[0].digest);
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[1..]).unwrap();
        }),
        ("the config has other bytes", |d, i| {
            fs::write(at(d, &i.config_digest), b"{}").unwrap();
        }),
        ("the manifest has other bytes", |d, i| {
            fs::write(at(d, &i.manifest_digest), b"{}").unwrap();
        }),
        ("no oci-layout", |d, _| {
            fs::remove_file(d.join("oci-layout")).unwrap();
        }),
        ("another layout version", |d, _| {
            fs::write(d.join("oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        }),
        ("no index", |d, _| fs::remove_file(d.join("index.json")).unwrap()),
        ("an index of nothing", |d, _| {
            edit_index(d, |i| i["manifests"] = serde_json::json!([]));
        }),
        ("an index that is too large", |d, _| {
            fs::write(d.join("index.json"), vec![b' '; (1 << 20) + 1]).unwrap();
        }),
        ("a digest that is a path", |d, _| {
            edit_index(d, |i| {
                i["manifests"][0]["digest"] = "sha256:../../../../etc/passwd".into();
            });
        }),
        ("an unknown algorithm", |d, _| {
            edit_index(d, |i| {
                i["manifests"][0]["digest"] = format!("sha384:{}", "a".repeat(96)).into();
            });
        }),
        ("a manifest for other machines", |d, _| {
            edit_index(d, |i| {
                i["manifests"][0]["platform"] = serde_json::json!({"os": "plan9", "architecture": "mips"});
            });
        }),
    ];
    for (what, change) in cases {
        let (path, image) = layout_dir(dir.path());
        change(&path, &image);
        let results = [
            layout::import_oci_dir(&to, &path, &options(None)),
            layout::import_oci_archive(&to, &pack(&path), &options(None)),
        ];
        for result in results {
            let error = result.unwrap_err().to_string();
            assert!(!error.contains('\n'), "{what}: {error}");
            assert_empty(&to, what);
        }
    }
}

#[test]
fn a_pipe_in_place_of_a_blob_does_not_hang() {
    let (dir, to) = store();
    let (path, image) = layout_dir(dir.path());
    let blob = path.join(format!("blobs/sha256/{}", image.layers()[0].digest.hex()));
    fs::remove_file(&blob).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &blob, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = layout::import_oci_dir(&to, &path, &options(None)).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn sizes_are_limited_at_the_byte() {
    let (dir, from) = store();
    let plain = Tar::new().file("a", &[1; 5000]).done();
    let saved = try_image(
        &from,
        "app:v1",
        vec![TestLayer {
            blob: plain.clone(),
            plain: plain.clone(),
        }],
    )
    .unwrap();
    let size = plain.len() as u64;
    let path = dir.path().join("layout");
    layout::save(&from, &saved, &path, SaveFormat::OciDir).unwrap();
    let archive = dir.path().join("docker");
    layout::save(&from, &saved, &archive, SaveFormat::DockerArchive).unwrap();
    let with = |change: &dyn Fn(&mut Limits)| {
        let (to_dir, to) = limited(|l| change(l));
        let results = [
            layout::import_oci_dir(&to, &path, &options(None)).map(drop),
            layout::import_oci_archive(&to, &pack(&path), &options(None)).map(drop),
            layout::import_docker_archive(&to, &archive, &options(None)).map(drop),
        ];
        drop(to_dir);
        results
    };
    let refused = |results: [magik_image::Result<()>; 3]| {
        for result in results {
            assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
        }
    };
    with(&|l| l.max_layer_size = size)
        .into_iter()
        .for_each(Result::unwrap);
    refused(with(&|l| l.max_layer_size = size - 1));
    let config = saved.manifest.config().size();
    with(&|l| l.max_config_size = config)
        .into_iter()
        .for_each(Result::unwrap);
    refused(with(&|l| l.max_config_size = config - 1));
    // An archive as a whole may be as large as a root filesystem.
    let (_dir, to) = limited(|l| l.max_rootfs_size = 4096);
    let result = layout::import_docker_archive(&to, &archive, &options(None));
    assert!(
        matches!(&result, Err(Error::TooLarge { what, .. }) if what.contains("archive")),
        "{result:?}"
    );
    assert_empty(&to, "archive too large");
}

#[test]
fn an_archive_may_not_have_any_number_of_entries() {
    let (dir, to) = store();
    let mut tar = Tar::new();
    for _ in 0..=10_000 {
        tar = tar.dir("d");
    }
    let file = dir.path().join("many.tar.gz");
    fs::write(&file, gzip(&tar.done())).unwrap();
    let result = layout::load(&to, &file, &options(None));
    assert!(
        matches!(result, Err(Error::TooMany { limit: 10_000, .. })),
        "{result:?}"
    );
}

#[test]
fn saving_a_damaged_image_fails_and_leaves_no_file() {
    let (dir, from) = store();
    let saved = sample(&from, "app:v1");
    let path = from.cas().path(&saved.layers()[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    for format in [SaveFormat::OciArchive, SaveFormat::DockerArchive] {
        let target = dir.path().join("out");
        assert!(layout::save(&from, &saved, &target, format).is_err());
        assert!(!target.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the store");
    }
}

#[test]
fn skopeo_reads_what_is_saved_and_writes_what_is_loaded() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("SKIPPED skopeo_reads_what_is_saved_and_writes_what_is_loaded: needs skopeo");
        return;
    }
    let (dir, from) = store();
    let saved = sample(&from, "app:v1");
    let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    layout::save(&from, &saved, Path::new(&text("ours.dir")), SaveFormat::OciDir).unwrap();
    layout::save(
        &from,
        &saved,
        Path::new(&text("ours.oci")),
        SaveFormat::OciArchive,
    )
    .unwrap();
    layout::save(
        &from,
        &saved,
        Path::new(&text("ours.docker")),
        SaveFormat::DockerArchive,
    )
    .unwrap();
    let copy = |source: &str, target: &str| {
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "--tmpdir",
                dir.path().to_str().unwrap(),
                "copy",
                source,
                target,
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{source}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for source in [
        format!("oci:{}:v1", text("ours.dir")),
        format!("oci-archive:{}", text("ours.oci")),
        format!("docker-archive:{}", text("ours.docker")),
    ] {
        for (n, target) in ["oci-archive", "docker-archive"].into_iter().enumerate() {
            let theirs = text(&format!("theirs-{n}"));
            fs::remove_file(&theirs).ok();
            copy(&source, &format!("{target}:{theirs}:localhost/theirs:v2"));
            let (_dir, to) = store();
            let image = layout::load(&to, Path::new(&theirs), &options(None))
                .unwrap()
                .remove(0);
            assert_eq!(image.name(), "localhost/theirs:v2");
            assert_eq!(content(&to, &image, "a"), "lower");
            assert_eq!(content(&to, &image, "b"), "upper");
        }
    }
}
