//! Every case of the corpus of hostile layers and layouts (tests/corpus): refused for the reason it states, or exactly the tree it
//! states, in both forms and as a copy of the layers; nothing outside touched, in bounded memory and time.
#![allow(missing_docs, clippy::print_stderr)]

mod store_support;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use magik_image::{
    Image, ImageStore, Limits,
    layout::{self, ImportOptions},
};
use magikrun_test_corpus::{
    Bounds, Expected, layers,
    layouts::{self, Form},
    tarball::{Entry, Tar},
    tree,
};
use rustix::process::{Resource, Rlimit};
use store_support::{descriptor, is_root, leftovers, put};

/// The limits in force; `limits_hold_as_they_are_by_default` has those of the design.
const BOUNDS: Bounds = Bounds::SMALL;
/// How much memory a case may take, in bytes.
const MEMORY: u64 = 64 << 20;
/// How much processor time all cases together may take, in seconds: there to end what does not end.
const CPU_SECONDS: u64 = 300;
/// Tells the test that it runs in a mount namespace of its own.
const INSIDE: &str = "MAGIKRUN_CORPUS_INSIDE";

/// Calls `test` in a private mount namespace, with a limit of processor time, in an empty directory in memory.
fn inside(name: &str, test: impl FnOnce(&Path)) {
    if !is_root() {
        eprintln!("SKIPPED {name}: needs root");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let limit = Rlimit {
        current: Some(CPU_SECONDS),
        maximum: Some(CPU_SECONDS),
    };
    rustix::process::setrlimit(Resource::Cpu, limit).unwrap();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    test(dir.path());
}

/// A directory that nothing may touch, and what is in it.
struct Canary {
    dir: PathBuf,
    listing: String,
}

impl Canary {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("secret"), "secret").unwrap();
        let listing = Self::look(&dir);
        Self { dir, listing }
    }

    /// All of it, inode and all.
    fn look(dir: &Path) -> String {
        let stat = fs::metadata(dir.join("secret")).unwrap();
        format!("{} {} {}", tree::listing(dir).unwrap(), stat.ino(), stat.nlink())
    }

    fn check(&self, case: &str) {
        assert_eq!(
            Self::look(&self.dir),
            self.listing,
            "{case}: the canary was touched"
        );
    }
}

/// The memory of this process: now, or the most since the last [`forget_peak`].
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn forget_peak() {
    // proc(5): 5 resets the peak of the resident set.
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Makes an image of a case's layers.
fn image_of(store: &ImageStore, case: &layers::Case) -> magik_image::Result<Image> {
    image_of_layers(store, &case.layers())
}

fn image_of_layers(store: &ImageStore, layers: &[layers::Layer]) -> magik_image::Result<Image> {
    let _lease = store.cas().lease().unwrap();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>()},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let blobs: Vec<_> = layers
        .iter()
        .map(|l| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &l.blob))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": store_support::MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": blobs,
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    for layer in layers {
        put(store, &layer.blob);
    }
    put(store, &config);
    put(store, &manifest);
    store.tag(
        &"localhost/case".parse().unwrap(),
        &descriptor(store_support::MANIFEST, &manifest),
    )
}

/// The tree that overlayfs makes of these.
fn overlay_listing(trees: &[PathBuf], at: &Path) -> String {
    fs::create_dir(at).unwrap();
    // By short names: all options together may not be longer than a page.
    let short: Vec<String> = (0..trees.len()).map(|n| n.to_string()).collect();
    let links = at.with_extension("links");
    fs::create_dir(&links).unwrap();
    for (tree, name) in trees.iter().zip(&short) {
        std::os::unix::fs::symlink(tree, links.join(name)).unwrap();
    }
    let mut names = short.clone();
    if names.len() == 1 {
        // overlayfs wants two.
        fs::create_dir(links.join("empty")).unwrap();
        names.push("empty".to_owned());
    }
    let output = Command::new("mount")
        .args([
            "-t",
            "overlay",
            "overlay",
            "-o",
            &format!("lowerdir={}", names.join(":")),
        ])
        .arg(at)
        .current_dir(&links)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listing = tree::listing(at);
    rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).unwrap();
    fs::remove_dir_all(&links).unwrap();
    fs::remove_dir(at).unwrap();
    listing.unwrap()
}

/// Unpacks a case in both forms, copies what overlayfs would make of one, and says what is not as it should be.
fn run(case: &layers::Case, dir: &Path, canary: &Canary) -> Result<(), String> {
    let store = store_support::open(dir).with_limits(Limits {
        max_layer_size: BOUNDS.layer_size,
        max_files_per_layer: BOUNDS.files as u64,
        max_names_size: BOUNDS.names as u64,
        ..Limits::default()
    });
    let image = image_of(&store, case).map_err(|e| format!("image: {e}"))?;
    forget_peak();
    let before = memory("VmRSS:");
    let flat_dir = dir.join("flat");
    let flat = store
        .unpack_flat(&image, &flat_dir)
        .map(|()| tree::listing(&flat_dir).unwrap());
    let trees = store.unpack_blocking(&image, "case");
    let copy_dir = dir.join("copy");
    let copy = trees.as_ref().ok().map(|trees| {
        let copied = store.copy_layers(trees, &copy_dir);
        copied.map(|()| tree::listing(&copy_dir).unwrap())
    });
    let overlay = trees.map(|trees| overlay_listing(&trees, &dir.join("merged")));
    let used = memory("VmHWM:").saturating_sub(before);
    canary.check(case.name);
    if used > MEMORY {
        return Err(format!("took {} MiB", used >> 20));
    }
    if !leftovers(&store).is_empty() {
        return Err(format!("left {:?}", leftovers(&store)));
    }
    let forms = [("flat", flat), ("overlay", overlay)];
    for (form, result) in forms.into_iter().chain(copy.map(|copy| ("copy", copy))) {
        match (&case.expected, result) {
            (Expected::Refused(reason), Err(error)) => {
                let message = error.to_string();
                if !message.contains(reason) || message.contains('\n') || message.len() > 1000 {
                    return Err(format!("{form}: refused, but not for {reason:?}: {message}"));
                }
            }
            (Expected::Taken(tree), Ok(found)) if *tree == found => {}
            (Expected::Taken(tree), Ok(found)) => {
                return Err(format!("{form}: expected\n{tree}\nfound\n{found}"));
            }
            (_, result) => return Err(format!("{form}: {result:?}")),
        }
    }
    Ok(())
}

#[test]
fn hostile_layers_are_refused_by_name_or_become_the_same_tree_in_both_forms() {
    inside(
        "hostile_layers_are_refused_by_name_or_become_the_same_tree_in_both_forms",
        |dir| {
            let canary = Canary::new(dir.join("outside"));
            let cases = layers::cases(canary.dir.to_str().unwrap(), BOUNDS);
            assert!(cases.len() >= 100, "{}", cases.len());
            let only = std::env::var("MAGIKRUN_CORPUS_CASE").ok();
            let mut failed = Vec::new();
            for case in cases
                .iter()
                .filter(|c| only.as_ref().is_none_or(|only| c.name == only))
            {
                let scratch = dir.join("scratch");
                fs::create_dir(&scratch).unwrap();
                let start = std::time::Instant::now();
                if let Err(what) = run(case, &scratch, &canary) {
                    failed.push(format!("{}: {what}", case.name));
                }
                let names: Vec<_> = fs::read_dir(dir)
                    .unwrap()
                    .map(|e| e.unwrap().file_name())
                    .collect();
                assert_eq!(names.len(), 2, "{}: {names:?}", case.name);
                eprintln!("{:>6} ms {}", start.elapsed().as_millis(), case.name);
                let removed = Command::new("rm").arg("-rf").arg(&scratch).status();
                assert!(removed.unwrap().success());
            }
            assert!(
                failed.is_empty(),
                "{} of {} failed:\n{}",
                failed.len(),
                cases.len(),
                failed.join("\n\n")
            );
        },
    );
}

/// Mounts a new file system of so many bytes, and says where; `None` if there is no program to make it.
fn disk(dir: &Path, kind: &str, size: u64) -> Option<PathBuf> {
    let (image, at) = (dir.join(format!("{kind}.img")), dir.join(kind));
    fs::File::create(&image).unwrap().set_len(size).unwrap();
    fs::create_dir(&at).unwrap();
    let made = Command::new(format!("mkfs.{kind}"))
        .arg("-q")
        .arg(&image)
        .status();
    if made.is_err() {
        eprintln!("SKIPPED: no mkfs.{kind}");
        return None;
    }
    assert!(made.unwrap().success());
    let mounted = Command::new("mount")
        .args(["-o", "loop"])
        .args([&image, &at])
        .status();
    assert!(mounted.unwrap().success());
    Some(at)
}

#[test]
fn hard_links_are_kept_or_refused_by_name_where_the_file_system_has_fewer() {
    inside(
        "hard_links_are_kept_or_refused_by_name_where_the_file_system_has_fewer",
        |dir| {
            // ext4 has 65 000.
            let tar = (1..65_001).fold(Tar::new().file("f", "x"), |tar, n| {
                tar.add(&Entry::new(b'1', n.to_string()).to("f"))
            });
            let layer = layers::Layer::from(tar);
            let unpack = |dir: &Path| {
                let store = store_support::open(dir);
                let image = image_of_layers(&store, std::slice::from_ref(&layer))?;
                let unpacked = store.unpack_blocking(&image, "links");
                assert_eq!(leftovers(&store), Vec::<String>::new());
                Ok(unpacked?.remove(0))
            };
            let tree = unpack(dir).unwrap();
            let stat = fs::metadata(tree.join("65000")).unwrap();
            assert_eq!((stat.nlink(), stat.size()), (65_001, 1));

            let Some(disk) = disk(dir, "ext4", 64 << 20) else {
                return;
            };
            let refused: magik_image::Result<PathBuf> = unpack(&disk);
            let error = refused.unwrap_err().to_string();
            assert!(
                error.contains("\"65000\": more hard links to a file than the file system allows"),
                "{error}"
            );
        },
    );
}

#[test]
fn copied_layers_share_their_content_where_the_file_system_can() {
    inside(
        "copied_layers_share_their_content_where_the_file_system_can",
        |dir| {
            let Some(disk) = disk(dir, "xfs", 320 << 20) else {
                return;
            };
            let store = store_support::open(&disk);
            let layer = layers::Layer::from(Tar::new().file("f", &"content".repeat(4 << 20)));
            let image = image_of_layers(&store, &[layer]).unwrap();
            let trees = store.unpack_blocking(&image, "copy").unwrap();
            let free = || {
                let stat = rustix::fs::statvfs(&disk).unwrap();
                stat.f_bfree * stat.f_frsize
            };
            rustix::fs::syncfs(fs::File::open(&disk).unwrap()).unwrap();
            let before = free();
            let copy = disk.join("copy");
            store.copy_layers(&trees, &copy).unwrap();
            rustix::fs::syncfs(fs::File::open(&disk).unwrap()).unwrap();
            let taken = before.saturating_sub(free());
            assert!(taken < 1 << 20, "28 MiB were copied into {taken} bytes");
            fs::write(copy.join("f"), "changed").unwrap();
            assert!(fs::read(trees[0].join("f")).unwrap().starts_with(b"content"));
        },
    );
}

#[test]
fn copies_of_layers_are_within_the_limit_and_whole_or_not_there() {
    inside(
        "copies_of_layers_are_within_the_limit_and_whole_or_not_there",
        |dir| {
            let store = store_support::open(dir);
            let layer = |name: &str| layers::Layer::from(Tar::new().file(name, "12345678"));
            let image = image_of_layers(&store, &[layer("a"), layer("b")]).unwrap();
            let trees = store.unpack_blocking(&image, "copy").unwrap();
            let copy = dir.join("copy");
            let limited = |max_rootfs_size| {
                store.clone().with_limits(Limits {
                    max_rootfs_size,
                    ..Limits::default()
                })
            };
            let refused = limited(15).copy_layers(&trees, &copy).unwrap_err().to_string();
            assert!(
                refused.contains("larger than 15 bytes") || refused.contains("15"),
                "{refused}"
            );
            assert!(!copy.exists());
            limited(16).copy_layers(&trees, &copy).unwrap();
            assert_eq!(tree::listing(&copy).unwrap(), "a=12345678\nb=12345678");
            // What is there already is neither written to nor removed.
            store.copy_layers(&trees, &copy).unwrap_err();
            assert!(copy.join("a").exists());
        },
    );
}

/// Imports a layout, unpacks it and says what is not as it should be.
fn import(case: &layouts::Case, dir: &Path) -> Result<(), String> {
    let store = store_support::open(dir);
    let path = dir.join("layout");
    case.write(&path).unwrap();
    let options = ImportOptions::default();
    let imported = match case.form {
        Form::Directory => layout::import_oci_dir(&store, &path, &options),
        Form::OciArchive => layout::import_oci_archive(&store, &path, &options),
        Form::DockerArchive => {
            layout::import_docker_archive(&store, &path, &options).map(|mut images| images.remove(0))
        }
    };
    let flat = dir.join("flat");
    let result = imported
        .and_then(|image| store.unpack_flat(&image, &flat))
        .map(|()| tree::listing(&flat).unwrap());
    if !leftovers(&store).is_empty() {
        return Err(format!("left {:?}", leftovers(&store)));
    }
    match (&case.expected, result) {
        (Expected::Refused(reason), Err(error)) => {
            let message = error.to_string();
            if message.contains(reason) && !message.contains('\n') && message.len() < 1000 {
                return Ok(());
            }
            Err(format!("refused, but not for {reason:?}: {message}"))
        }
        (Expected::Taken(tree), Ok(found)) if *tree == found => Ok(()),
        (_, result) => Err(format!("{result:?}")),
    }
}

#[test]
fn hostile_layouts_are_refused_by_name_or_become_the_image_they_say() {
    inside(
        "hostile_layouts_are_refused_by_name_or_become_the_image_they_say",
        |dir| {
            let canary = Canary::new(dir.join("outside"));
            let cases = layouts::cases(canary.dir.to_str().unwrap());
            assert!(cases.len() >= 30, "{}", cases.len());
            let mut failed = Vec::new();
            for case in &cases {
                let scratch = dir.join("scratch");
                fs::create_dir(&scratch).unwrap();
                forget_peak();
                let before = memory("VmRSS:");
                if let Err(what) = import(case, &scratch) {
                    failed.push(format!("{}: {what}", case.name));
                }
                let used = memory("VmHWM:").saturating_sub(before);
                assert!(used < MEMORY, "{} took {} MiB", case.name, used >> 20);
                canary.check(case.name);
                fs::remove_dir_all(&scratch).unwrap();
            }
            let (count, all) = (failed.len(), cases.len());
            assert!(
                failed.is_empty(),
                "{count} of {all} failed:\n{}",
                failed.join("\n\n")
            );
        },
    );
}
