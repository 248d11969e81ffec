//! Several processes unpack, and some of them die. The other process is this test binary, started again with a role.
#![allow(missing_docs, clippy::print_stderr)]

mod store_support;

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use magik_image::PruneOptions;
use store_support::{Tar, image, is_root, leftovers, open, store};

const ROLE: &str = "MAGIK_IMAGE_TEST_ROLE";
const ROOT: &str = "MAGIK_IMAGE_TEST_ROOT";

/// Not a test of its own: what the other process does.
#[test]
fn role() {
    let Ok(role) = env::var(ROLE) else { return };
    let store = open(Path::new(&env::var(ROOT).unwrap()));
    match role.as_str() {
        "unpack" => {
            let image = store.find("shared").unwrap();
            let mut out = std::io::stdout();
            writeln!(out, "ready").unwrap();
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            store
                .unpack_blocking(&image, &format!("pid-{}", std::process::id()))
                .unwrap();
        }
        "rootless" => rootless(&store),
        other => unreachable!("{other}"),
    }
}

fn start(role: &str, root: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_ready(child: &mut Child) {
    let output = child.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"ready\n") {
        assert_eq!(
            output.read(&mut byte).unwrap(),
            1,
            "the other process ended early"
        );
        seen.push(byte[0]);
    }
}

#[test]
fn processes_that_unpack_one_image_wait_for_each_other() {
    let (dir, store) = store();
    let layers = (0..5_u8)
        .map(|i| Tar::new().file(&format!("d{i}/f"), &[i; 100_000]))
        .collect();
    let image = image(&store, "shared", layers);
    let mut children: Vec<Child> = (0..3).map(|_| start("unpack", dir.path())).collect();
    children.iter_mut().for_each(wait_ready);
    children.iter_mut().for_each(|child| drop(child.stdin.take()));
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let trees = store.unpack_blocking(&image, "mine").unwrap();
    for (tree, i) in trees.iter().rev().zip(0..5_u8) {
        assert_eq!(fs::read(tree.join(format!("d{i}/f"))).unwrap(), vec![i; 100_000]);
    }
    assert_eq!(store.leases().unwrap().len(), 4);
    assert!(leftovers(&store).is_empty());
}

/// Puts a process into the middle of unpacking: its layer's blob becomes a pipe that delivers half of it.
fn half_way(dir: &Path, store: &magik_image::ImageStore) {
    let tar = || {
        Tar::new()
            .file("first", &[1; 1 << 20])
            .file("second", &[2; 1 << 20])
    };
    let image = image(store, "shared", vec![tar()]);
    let mut child = start("unpack", dir);
    wait_ready(&mut child);
    let path = store.cas().path(&image.layers()[0].digest);
    let blob = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    drop(child.stdin.take());
    // Returns once the child has opened it, and the write once it has read all but the last pipeful.
    let mut pipe = fs::OpenOptions::new().write(true).open(&path).unwrap();
    pipe.write_all(&blob[..blob.len() / 4 * 3]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(pipe);
    fs::remove_file(&path).unwrap();
    fs::write(&path, blob).unwrap();
}

#[test]
fn kill_9_leaves_a_temporary_tree_that_the_next_unpack_sweeps() {
    let (dir, store) = store();
    half_way(dir.path(), &store);
    assert_eq!(leftovers(&store).len(), 1);
    let image = store.find("shared").unwrap();
    let trees = store.unpack_blocking(&image, "mine").unwrap();
    assert_eq!(fs::metadata(trees[0].join("second")).unwrap().len(), 1 << 20);
    assert!(leftovers(&store).is_empty());
}

#[test]
fn kill_9_leaves_a_temporary_tree_that_prune_sweeps() {
    let (dir, store) = store();
    half_way(dir.path(), &store);
    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.leftovers, report.layers, report.blobs), (1, 0, 0));
    assert!(leftovers(&store).is_empty());
    assert!(store.find("shared").is_ok());
}

fn rootless(store: &magik_image::ImageStore) {
    assert!(!is_root());
    let lower = Tar::new()
        .dir_mode("locked", 0o000, 0)
        .dir_mode("d", 0o555, 0)
        .file("d/f", b"x")
        .file("gone", b"");
    let device = |h: &mut tar::Header| {
        h.set_device_major(1).unwrap();
        h.set_device_minor(3).unwrap();
    };
    let upper = Tar::new()
        .file(".wh.gone", b"")
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/new", b"y")
        .entry(tar::EntryType::Char, "null", b"", device)
        .entry(tar::EntryType::Regular, "owned", b"", |h| h.set_uid(12));
    let image = image(store, "rootless", vec![lower, upper]);
    let trees = store.unpack_blocking(&image, "mine").unwrap();
    let stat = |path: &str| fs::symlink_metadata(trees[0].join(path));
    assert_eq!(stat("gone").unwrap().rdev(), 0);
    assert_eq!(stat("owned").unwrap().uid(), rustix::process::geteuid().as_raw());
    assert!(stat("null").is_err(), "devices need root");
    let mut value = [0; 1];
    rustix::fs::lgetxattr(trees[0].join("d"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(value, *b"y");
    assert_eq!(
        fs::metadata(trees[1].join("d")).unwrap().permissions().mode() & 0o777,
        0o555
    );
    store.release("mine").unwrap();
    store.remove_image(&image).unwrap();
    assert_eq!(
        store.prune(PruneOptions::default()).unwrap().layers,
        2,
        "also those it may not write to"
    );
}

#[test]
fn works_without_root_as_far_as_the_kernel_lets_it() {
    let (dir, store) = store();
    if !is_root() {
        return rootless(&store);
    }
    let run = || {
        drop(store);
        fs::remove_dir_all(dir.path().join("data")).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
        // The binary lies where nobody need not be able to reach it.
        let binary = dir.path().join("test");
        fs::copy(env::current_exe().unwrap(), &binary).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        Command::new(binary)
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, "rootless")
            .env(ROOT, dir.path())
            .current_dir(dir.path())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap()
    };
    let output = run();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
