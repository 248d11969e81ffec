//! Layers become directories, whole or not at all.
#![allow(missing_docs, clippy::print_stderr)]

mod store_support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use magik_image::{Error, Image, ImageStore};
use store_support::{Tar, TestLayer, gzip, image, is_root, store, try_image, zstd};
use tar::EntryType;

fn unpack(store: &ImageStore, image: &Image) -> magik_image::Result<Vec<PathBuf>> {
    store.unpack_blocking(image, "test")
}

/// The only layer of an image of one.
fn unpack_one(store: &ImageStore, tar: Tar) -> magik_image::Result<PathBuf> {
    let image = image(store, "one", vec![tar]);
    Ok(unpack(store, &image)?.remove(0))
}

macro_rules! needs_root {
    ($test:literal) => {
        if !is_root() {
            eprintln!(concat!("SKIPPED ", $test, ": needs root"));
            return;
        }
    };
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

#[test]
fn keeps_owners_modes_times_attributes_links_and_nodes() {
    needs_root!("keeps_owners_modes_times_attributes_links_and_nodes");
    let (_dir, store) = store();
    let tar = Tar::new()
        .dir_mode("./", 0o750, 0)
        .dir_mode("d/", 0o1777, 12)
        .entry(EntryType::Regular, "d/setuid", b"program", |h| {
            h.set_mode(0o4755);
            h.set_uid(7);
            h.set_gid(8);
        })
        .pax(&[
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
            (
                "SCHILY.xattr.security.capability",
                b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            ("mtime", b"1600000000.25"),
        ])
        .file("d/attributes", b"")
        .hardlink("d/hard", "d/setuid")
        .symlink("d/soft", "/d/setuid")
        .entry(EntryType::Fifo, "d/fifo", b"", |h| h.set_mode(0o620))
        .entry(EntryType::Char, "d/null", b"", |h| {
            h.set_mode(0o666);
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .entry(EntryType::Block, "d/loop", b"", |h| {
            h.set_device_major(7).unwrap();
            h.set_device_minor(1).unwrap();
        })
        .entry(EntryType::Regular, "d/no-access", b"x", |h| h.set_mode(0));
    let fs = unpack_one(&store, tar).unwrap();
    let stat = |name: &str| fs::symlink_metadata(fs.join(name)).unwrap();

    assert_eq!(stat("").mode() & 0o7777, 0o750);
    assert_eq!(
        (stat("d").mode() & 0o7777, stat("d").uid(), stat("d").mtime()),
        (0o1777, 12, 1_700_000_000)
    );
    let program = stat("d/setuid");
    assert_eq!(
        (program.mode() & 0o7777, program.uid(), program.gid()),
        (0o4755, 7, 8)
    );
    assert_eq!((program.ino(), program.nlink()), (stat("d/hard").ino(), 2));
    assert_eq!(program.mtime(), 1_700_000_000);
    let attributes = stat("d/attributes");
    assert_eq!(
        (attributes.mtime(), attributes.mtime_nsec()),
        (1_600_000_000, 250_000_000)
    );
    let path = fs.join("d/attributes");
    assert_eq!(attribute(&path, "user.note").as_deref(), Some(&b"hello"[..]));
    assert!(attribute(&path, "security.capability").is_some());
    assert_eq!(attribute(&path, "trusted.overlay.opaque"), None);
    assert_eq!(attribute(&path, "security.selinux"), None);
    assert_eq!(fs::read_link(fs.join("d/soft")).unwrap(), Path::new("/d/setuid"));
    assert_eq!(stat("d/soft").mtime(), 1_700_000_000);
    assert!(stat("d/fifo").file_type().is_fifo());
    assert_eq!(stat("d/fifo").mode() & 0o7777, 0o620);
    assert!(stat("d/null").file_type().is_char_device());
    assert_eq!(stat("d/null").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("d/loop").file_type().is_block_device());
    assert_eq!(stat("d/no-access").mode() & 0o7777, 0);
}

#[test]
fn reads_gzip_zstd_and_plain_whatever_the_media_type_says() {
    let (_dir, store) = store();
    let tar = |name| Tar::new().file(name, name.as_bytes()).done();
    let (a, b, c) = (tar("a"), tar("b"), tar("c"));
    let members = [gzip(&a[..700]), gzip(&a[700..])].concat();
    let layers = vec![
        TestLayer {
            blob: members,
            plain: a,
        },
        TestLayer {
            blob: zstd(&b),
            plain: b,
        },
        TestLayer {
            blob: c.clone(),
            plain: c,
        },
    ];
    let image = try_image(&store, "three", layers).unwrap();
    let trees = unpack(&store, &image).unwrap();
    // The uppermost first.
    for (tree, name) in trees.iter().zip(["c", "b", "a"]) {
        assert_eq!(fs::read_to_string(tree.join(name)).unwrap(), name);
    }
    assert!(
        trees
            .iter()
            .all(|t| t.is_absolute() && !t.to_str().unwrap().contains(':')),
        "{trees:?}"
    );
}

/// What a shell sees in an overlay of the layers.
fn in_overlay(trees: &[PathBuf], script: &str) -> String {
    let lower = trees
        .iter()
        .map(|t| t.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(":");
    let mount = tempfile::tempdir().unwrap();
    let script = format!("mount -t overlay overlay -o lowerdir={lower} . && cd \"$PWD\" && {script}");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .current_dir(mount.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn whiteouts_hide_in_an_overlay_what_they_hide_in_the_specification() {
    needs_root!("whiteouts_hide_in_an_overlay_what_they_hide_in_the_specification");
    let (_dir, store) = store();
    let lower = Tar::new()
        .dir("dir")
        .file("dir/keep", b"")
        .file("dir/gone", b"")
        .dir("opaque")
        .file("opaque/old", b"")
        .dir("replaced")
        .file("replaced/old", b"")
        .dir("later")
        .file("later/old", b"")
        .file("file", b"old");
    let upper = Tar::new()
        .file("dir/.wh.gone", b"")
        .file("dir/new", b"")
        .file("opaque/new", b"")
        .file("opaque/.wh..wh..opq", b"")
        // A whiteout and a directory of one name: the lower directory's content goes.
        .file(".wh.replaced", b"")
        .dir("replaced")
        .file("replaced/new", b"")
        .dir("later")
        .file("later/new", b"")
        .file(".wh.later", b"")
        // A whiteout does not mean this layer's own file.
        .file("file", b"new")
        .file(".wh.file", b"")
        // aufs' own files mean nothing.
        .file(".wh..wh.aufs", b"")
        .dir(".wh..wh.plnk");
    let image = image(&store, "whiteouts", vec![lower, upper]);
    let trees = unpack(&store, &image).unwrap();
    let upper = &trees[0];
    let whiteout = fs::symlink_metadata(upper.join("dir/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(
        attribute(&upper.join("opaque"), "trusted.overlay.opaque").as_deref(),
        Some(&b"y"[..])
    );
    assert!(!upper.join("dir/.wh.gone").exists() && !upper.join(".wh..wh.aufs").exists());

    let listing = in_overlay(&trees, "find . -mindepth 1 | sort; cat file");
    let expected = "./dir\n./dir/keep\n./dir/new\n./file\n./later\n./later/new\n./opaque\n./opaque/new\n./replaced\n./replaced/new\nnew";
    assert_eq!(listing, expected);

    let flat = store.root().join("flat");
    store.unpack_flat(&image, &flat).unwrap();
    let output = Command::new("sh")
        .args(["-c", "find . -mindepth 1 | sort; cat file"])
        .current_dir(&flat)
        .output();
    assert_eq!(
        String::from_utf8(output.unwrap().stdout).unwrap(),
        expected,
        "flat and overlay agree"
    );
}

#[test]
fn an_opaque_root_hides_every_lower_layer() {
    needs_root!("an_opaque_root_hides_every_lower_layer");
    let (_dir, store) = store();
    let lower = Tar::new().file("a", b"old").file("b", b"").dir("c");
    let upper = Tar::new().file(".wh..wh..opq", b"").file("a", b"new");
    let image = image(&store, "opaque-root", vec![lower, upper]);
    let trees = unpack(&store, &image).unwrap();
    assert_eq!(in_overlay(&trees, "find . -mindepth 1; cat a"), "./a\nnew");
}

#[test]
fn directories_a_layer_only_implies_look_as_in_the_layers_below() {
    needs_root!("directories_a_layer_only_implies_look_as_in_the_layers_below");
    let (_dir, store) = store();
    let bottom = Tar::new()
        .dir_mode("./", 0o711, 5)
        .dir_mode("tmp", 0o1777, 0)
        .dir_mode("a", 0o700, 9)
        .dir("hidden");
    let middle = Tar::new().dir_mode("a/b", 0o2770, 10).file(".wh.hidden", b"");
    let top = Tar::new()
        .file("tmp/x", b"")
        .file("a/b/c/d", b"")
        .file("hidden/y", b"");
    let image = image(&store, "implied", vec![bottom, middle, top]);
    let top = unpack(&store, &image).unwrap().remove(0);
    let stat = |name: &str| {
        let stat = fs::metadata(top.join(name)).unwrap();
        (stat.mode() & 0o7777, stat.uid())
    };
    assert_eq!(stat(""), (0o711, 5));
    assert_eq!(stat("tmp"), (0o1777, 0));
    assert_eq!(stat("a"), (0o700, 9));
    assert_eq!(stat("a/b"), (0o2770, 10));
    assert_eq!(stat("a/b/c"), (0o755, 0), "nobody says, so the usual");
    assert_eq!(stat("hidden"), (0o755, 0), "the lower one was removed in between");
}

#[test]
fn links_inside_a_layer_are_followed_inside_it() {
    let (_dir, store) = store();
    let tar = Tar::new()
        .dir("usr/lib")
        .symlink("lib", "/usr/lib")
        .file("lib/f", b"x")
        .symlink("up", "../..")
        .file("up/g", b"y");
    let fs = unpack_one(&store, tar).unwrap();
    assert_eq!(fs::read(fs.join("usr/lib/f")).unwrap(), b"x");
    assert_eq!(fs::read(fs.join("g")).unwrap(), b"y");
}

#[test]
fn the_last_entry_of_a_name_counts() {
    let (_dir, store) = store();
    let tar = Tar::new()
        .file("a", b"1")
        .file("a", b"two")
        .dir("b")
        .file("b/x", b"")
        .symlink("b", "a")
        .symlink("c", "a")
        .dir("c")
        .file("c/x", b"")
        .dir_mode("d", 0o700, 0)
        .file("d/x", b"")
        .dir_mode("d", 0o711, 0);
    let fs = unpack_one(&store, tar).unwrap();
    assert_eq!(fs::read(fs.join("a")).unwrap(), b"two");
    assert_eq!(fs::read_link(fs.join("b")).unwrap(), Path::new("a"));
    assert!(fs.join("c/x").is_file() && fs.join("d/x").is_file());
    assert_eq!(fs::metadata(fs.join("d")).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let (_dir, store) = store();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let fs = unpack_one(
        &store,
        Tar::new().pax(&[("path", long.as_bytes())]).file("short", b"x"),
    )
    .unwrap();
    assert!(fs.join(&long).is_file());
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"y"[..]).unwrap();
    let plain = builder.into_inner().unwrap();
    let image = try_image(
        &store,
        "gnu",
        vec![TestLayer {
            blob: gzip(&plain),
            plain,
        }],
    )
    .unwrap();
    let fs = unpack(&store, &image).unwrap().remove(0);
    assert_eq!(fs::read(fs.join(&long)).unwrap(), b"y");
}

#[test]
fn flat_unpack_wants_an_empty_directory() {
    let (dir, store) = store();
    let image = image(&store, "flat", vec![Tar::new().file("a", b"")]);
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), b"").unwrap();
    assert!(matches!(
        store.unpack_flat(&image, &target),
        Err(Error::Io { .. })
    ));
    assert!(target.join("mine").exists() && !target.join("a").exists());
    fs::remove_file(target.join("mine")).unwrap();
    store.unpack_flat(&image, &target).unwrap();
    assert!(target.join("a").exists());
}

#[test]
fn on_an_overlay_whiteouts_are_refused_by_name_and_the_rest_is_unpacked() {
    needs_root!("on_an_overlay_whiteouts_are_refused_by_name_and_the_rest_is_unpacked");
    let dir = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    // In a mount namespace of its own, which ends with the thread.
    let mounted = dir.path().to_owned();
    let unpacked = std::thread::spawn(move || {
        use rustix::{mount, thread};
        #[allow(unsafe_code, reason = "unsharing is unsafe in general")]
        // SAFETY: a new mount namespace touches no descriptor and no memory of other threads.
        unsafe { thread::unshare_unsafe(thread::UnshareFlags::NEWNS) }.unwrap();
        let private = mount::MountPropagationFlags::PRIVATE | mount::MountPropagationFlags::REC;
        mount::mount_change("/", private).unwrap();
        let at = |name: &str| mounted.join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            at("lower"),
            at("upper"),
            at("work")
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = mount::MountFlags::empty();
        mount::mount("overlay", at("merged"), "overlay", flags, options.as_c_str()).unwrap();
        let store = store_support::open(&mounted.join("merged"));
        let lower = || Tar::new().file("a", b"");
        let plain = image(&store, "plain", vec![lower(), Tar::new().file("b", b"")]);
        unpack(&store, &plain).unwrap();
        let hides = image(&store, "hides", vec![lower(), Tar::new().file(".wh.a", b"")]);
        unpack(&store, &hides).map_err(|e| e.to_string())
    });
    let error = unpacked.join().unwrap().unwrap_err();
    assert!(
        error.contains("whiteouts cannot be made on an overlay"),
        "{error}"
    );
}
