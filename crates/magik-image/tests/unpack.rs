//! Layers become directories, whole or not at all.
#![allow(missing_docs, clippy::print_stderr)]

mod store_support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use magik_image::{Error, Image, ImageStore, PruneOptions};
use store_support::{Tar, TestLayer, gzip, image, is_root, leftovers, limited, store, try_image, zstd};
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
fn nothing_in_a_layer_reaches_outside() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    let outside_text = outside.to_str().unwrap();
    let victim = format!("{outside_text}/secret");
    type Make = Box<dyn FnOnce(Tar) -> Tar>;
    let own = |text: &str| text.to_owned();
    let (o, v) = (own(outside_text), own(&victim));
    let (o2, o3, o4, v2, v3) = (o.clone(), o.clone(), o.clone(), v.clone(), v.clone());
    // The name, the entries, and a part of the reason if they are refused.
    let cases: Vec<(&str, Make, Option<&str>)> = vec![
        ("dotdot", Box::new(|t| t.file("../evil", b"x")), Some("\"..\"")),
        (
            "dotdot inside",
            Box::new(|t| t.file("a/../../evil", b"x")),
            Some("\"..\""),
        ),
        ("dotdot directory", Box::new(|t| t.dir("..")), Some("\"..\"")),
        (
            "symlinked parent",
            Box::new(move |t| t.symlink("l", &o).file("l/evil", b"x")),
            Some("parent"),
        ),
        (
            "symlink over symlink",
            Box::new(move |t| t.symlink("l", &o2).symlink("l/evil", "x")),
            Some("parent"),
        ),
        (
            "directory below symlink",
            Box::new(move |t| t.symlink("l", &o3).dir("l/evil/dir")),
            Some("parent"),
        ),
        (
            "hard link outside",
            Box::new(move |t| t.hardlink("h", &v)),
            Some("not in this layer"),
        ),
        (
            "hard link up",
            Box::new(|t| t.hardlink("h", "../../../outside/secret")),
            Some("\"..\""),
        ),
        (
            "hard link through symlink",
            Box::new(move |t| t.symlink("l", &o4).hardlink("h", "l/secret")),
            Some("not in this layer"),
        ),
        (
            "hard link to a directory",
            Box::new(|t| t.dir("d").hardlink("h", "d")),
            Some("directory"),
        ),
        (
            "hard link to the root",
            Box::new(|t| t.hardlink("h", "/")),
            Some("directory"),
        ),
        (
            "hard link to itself",
            Box::new(|t| t.file("h", b"").hardlink("h", "h")),
            Some("itself"),
        ),
        (
            "whiteout of the parent",
            Box::new(|t| t.file("a/.wh...", b"")),
            Some("whiteout"),
        ),
        (
            "whiteout of the directory",
            Box::new(|t| t.file("a/.wh..", b"")),
            Some("whiteout"),
        ),
        (
            "whiteout of nothing",
            Box::new(|t| t.file(".wh.", b"")),
            Some("whiteout"),
        ),
        (
            "whiteout as a directory",
            Box::new(|t| t.file(".wh.a/b", b"")),
            Some("whiteout"),
        ),
        (
            "file as the root",
            Box::new(|t| t.file("./", b"").file(".", b"x")),
            Some("root"),
        ),
        (
            "unknown type",
            Box::new(|t| t.entry(EntryType::new(b'V'), "v", b"", |_| {})),
            Some("type 'V'"),
        ),
        (
            "symlink without target",
            Box::new(|t| t.symlink("l", "")),
            Some("target"),
        ),
        (
            "owner out of range",
            Box::new(|t| t.entry(EntryType::Regular, "f", b"", |h| h.set_uid(1 << 40))),
            Some("uid"),
        ),
        (
            "owner -1",
            Box::new(|t| t.entry(EntryType::Regular, "f", b"", |h| h.set_uid(0xffff_ffff))),
            Some("uid"),
        ),
        (
            "NUL in a PAX path",
            Box::new(|t| t.pax(&[("path", b"a\0b")]).file("f", b"")),
            Some("NUL"),
        ),
        // These are extracted, below the root.
        ("absolute", Box::new(|t| t.file("/abs/file", b"x")), None),
        (
            "symlink to the parent of the root",
            Box::new(|t| t.symlink("l", "../../..").file("l/evil", b"x")),
            None,
        ),
        (
            "file over a symlink",
            Box::new(move |t| t.symlink("l", &v2).file("l", b"x")),
            None,
        ),
        (
            "directory over a symlink",
            Box::new(move |t| t.symlink("l", &v3).dir("l").file("l/f", b"x")),
            None,
        ),
        (
            "file over a directory",
            Box::new(|t| t.dir("d").file("d/x", b"").file("d", b"x")),
            None,
        ),
        (
            "parent through a symlink inside",
            Box::new(|t| t.dir("usr/lib").symlink("lib", "/usr/lib").file("lib/f", b"x")),
            None,
        ),
    ];
    for (name, make, refused) in cases {
        let image = image(&store, "hostile", vec![make(Tar::new())]);
        let result = unpack(&store, &image);
        match (refused, result) {
            (Some(reason), Err(error @ (Error::InvalidEntry { .. } | Error::InvalidLayer { .. }))) => {
                assert!(error.to_string().contains(reason), "{name}: {error}");
                assert!(!error.to_string().contains('\n'), "{name}");
            }
            (None, Ok(_)) => {}
            (_, other) => panic!("{name}: {other:?}"),
        }
        let there: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(there, ["secret"], "{name}");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret", "{name}");
        assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1, "{name}");
        let beside: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(beside.len(), 2, "{name}: {beside:?}");
        assert_eq!(leftovers(&store), Vec::<String>::new(), "{name}");

        // The flat form says the same.
        let flat = dir.path().join("flat");
        let result = store.unpack_flat(&image, &flat);
        assert_eq!(result.is_ok(), refused.is_none(), "{name}: {result:?}");
        assert_eq!(
            flat.exists(),
            refused.is_none(),
            "{name}: nothing is left of a failure"
        );
        fs::remove_dir_all(&flat).ok();
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret", "{name}");
    }
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
fn a_layer_that_is_not_what_its_config_says_is_refused_and_leaves_nothing() {
    let (_dir, store) = store();
    let plain = Tar::new().file("a", b"a").done();
    let other = Tar::new().file("a", b"b").done();
    let image = try_image(
        &store,
        "liar",
        vec![TestLayer {
            blob: gzip(&other),
            plain,
        }],
    )
    .unwrap();
    assert!(matches!(
        unpack(&store, &image),
        Err(Error::DiffIdMismatch { .. })
    ));
    assert!(leftovers(&store).is_empty());
    for blob in [
        b"no archive at all".repeat(100),
        gzip(&[1; 2000]),
        vec![0x1f, 0x8b, 8, 0],
    ] {
        let plain = vec![];
        let image = try_image(&store, "nonsense", vec![TestLayer { blob, plain }]).unwrap();
        let result = unpack(&store, &image);
        assert!(matches!(result, Err(Error::InvalidLayer { .. })), "{result:?}");
        assert!(leftovers(&store).is_empty());
    }
}

#[test]
fn bytes_after_the_archives_end_count_for_the_diff_id() {
    let (_dir, store) = store();
    let mut plain = Tar::new().file("a", b"a").done();
    plain.extend(vec![0; 10_240]);
    let image = try_image(
        &store,
        "padded",
        vec![TestLayer {
            blob: gzip(&plain),
            plain: plain.clone(),
        }],
    )
    .unwrap();
    unpack(&store, &image).unwrap();
    plain.extend(b"hidden");
    let shorter = plain[..plain.len() - 6].to_vec();
    let image = try_image(
        &store,
        "smuggled",
        vec![TestLayer {
            blob: gzip(&plain),
            plain: Tar::new().done(),
        }],
    )
    .unwrap();
    assert!(matches!(
        unpack(&store, &image),
        Err(Error::DiffIdMismatch { .. })
    ));
    drop(shorter);
}

#[test]
fn a_damaged_blob_is_called_that() {
    let (_dir, store) = store();
    let plain = Tar::new().file("a", &[5; 5000]).done();
    let image = try_image(
        &store,
        "damaged",
        vec![TestLayer {
            blob: gzip(&plain),
            plain,
        }],
    )
    .unwrap();
    let path = store.cas().path(&image.layers()[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let result = unpack(&store, &image);
    assert!(
        matches!(result, Err(Error::Cas(magik_cas::Error::Damaged { .. }))),
        "{result:?}"
    );
}

fn too_large(result: magik_image::Result<Vec<PathBuf>>) -> String {
    match result {
        Err(error @ (Error::TooLarge { .. } | Error::TooMany { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_layer_may_decompress_to_its_limit_and_no_further() {
    let plain = Tar::new().file("zeros", &[0; 100_000]).done();
    let layer = || {
        vec![TestLayer {
            blob: gzip(&plain),
            plain: plain.clone(),
        }]
    };
    let size = plain.len() as u64;
    let (_dir, store) = limited(|l| l.max_layer_size = size);
    unpack(&store, &try_image(&store, "a", layer()).unwrap()).unwrap();
    let (_dir, store) = limited(|l| l.max_layer_size = size - 1);
    let message = too_large(unpack(&store, &try_image(&store, "a", layer()).unwrap()));
    assert!(message.contains("decompressed"), "{message}");
    assert!(leftovers(&store).is_empty());
}

#[test]
fn a_layer_may_be_stored_in_its_limit_and_no_more() {
    // A plain layer is as large compressed as decompressed, so the stored size meets the limit first.
    let tar = || vec![TestLayer::from(Tar::new().file("a", &[1; 3000]))];
    let size = tar()[0].blob.len() as u64;
    let (_dir, store) = limited(|l| l.max_layer_size = size);
    unpack(&store, &try_image(&store, "a", tar()).unwrap()).unwrap();
    let (_dir, store) = limited(|l| l.max_layer_size = size - 1);
    assert!(matches!(
        try_image(&store, "a", tar()),
        Err(Error::TooLarge { .. })
    ));
    // The same if the manifest was accepted under a larger limit.
    let (dir, store) = store_support::store();
    let image = try_image(&store, "a", tar()).unwrap();
    let mut limits = *store.limits();
    limits.max_layer_size = size - 1;
    too_large(unpack(&store.clone().with_limits(limits), &image));
    drop(dir);
}

#[test]
fn a_sparse_file_counts_in_full() {
    // GNU tar's old format: one block of data at the end of a file of a megabyte.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(512);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..1].copy_from_slice(b"s");
    let octal = |field: &mut [u8], n: u64| {
        let text = format!("{n:0width$o}\0", width = field.len() - 1);
        field.copy_from_slice(text.as_bytes());
    };
    octal(&mut gnu.sparse[0].offset, (1 << 20) - 512);
    octal(&mut gnu.sparse[0].numbytes, 512);
    octal(&mut gnu.realsize, 1 << 20);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &[9; 512][..]).unwrap();
    let plain = builder.into_inner().unwrap();
    let layer = || {
        vec![TestLayer {
            blob: plain.clone(),
            plain: plain.clone(),
        }]
    };
    let (_dir, store) = limited(|l| l.max_layer_size = 1 << 20);
    let tree = unpack(&store, &try_image(&store, "a", layer()).unwrap())
        .unwrap()
        .remove(0);
    let content = fs::read(tree.join("s")).unwrap();
    assert_eq!(
        (content.len(), content[0], content[(1 << 20) - 1]),
        (1 << 20, 0, 9)
    );
    let (_dir, store) = limited(|l| l.max_layer_size = (1 << 20) - 1);
    too_large(unpack(&store, &try_image(&store, "a", layer()).unwrap()));
    assert!(leftovers(&store).is_empty());
}

#[test]
fn all_layers_together_may_fill_the_rootfs_limit_and_no_more() {
    let layers = || vec![Tar::new().file("a", &[1; 6000]), Tar::new().file("b", &[2; 4000])];
    // Manifests are measured by stored sizes, so these are compressed well below the limit.
    let layers = || {
        let compressed = |tar: Tar| {
            let plain = tar.done();
            TestLayer {
                blob: gzip(&plain),
                plain,
            }
        };
        layers().into_iter().map(compressed).collect::<Vec<_>>()
    };
    let (_dir, store) = limited(|l| l.max_rootfs_size = 10_000);
    unpack(&store, &try_image(&store, "a", layers()).unwrap()).unwrap();
    let (_dir, store) = limited(|l| l.max_rootfs_size = 9_999);
    let image = try_image(&store, "a", layers()).unwrap();
    assert!(too_large(unpack(&store, &image)).contains("root filesystem"));
    // What is there from before counts, too.
    let below = {
        let mut layers = layers();
        layers.truncate(1);
        try_image(&store, "below", layers).unwrap()
    };
    unpack(&store, &below).unwrap();
    too_large(unpack(&store, &image));
    let flat = store.root().join("flat");
    assert!(matches!(
        store.unpack_flat(&image, &flat),
        Err(Error::TooLarge { .. })
    ));
    assert!(!flat.exists() && leftovers(&store).is_empty());
}

#[test]
fn a_layer_may_have_as_many_files_as_allowed_counting_implied_directories() {
    let tar = || Tar::new().file("implied/a", b"").file("b", b"").dir("c");
    let (_dir, store) = limited(|l| l.max_files_per_layer = 4);
    unpack_one(&store, tar()).unwrap();
    let (_dir, store) = limited(|l| l.max_files_per_layer = 3);
    let image = image(&store, "a", vec![tar()]);
    assert!(too_large(unpack(&store, &image)).contains("files"));
    assert!(leftovers(&store).is_empty());
}

#[test]
fn an_image_may_have_as_many_layers_as_allowed() {
    let layers = |n: u8| {
        (0..n)
            .map(|i| Tar::new().file(&i.to_string(), b""))
            .collect::<Vec<_>>()
    };
    let (_dir, store) = limited(|l| l.max_layers = 4);
    let trees = unpack(&store, &image(&store, "four", layers(4))).unwrap();
    assert_eq!(trees.len(), 4);
    let five = layers(5).into_iter().map(TestLayer::from).collect();
    assert!(matches!(
        try_image(&store, "five", five),
        Err(Error::TooMany { limit: 4, .. })
    ));
}

#[test]
fn an_extended_header_may_not_fill_the_memory() {
    let (_dir, store) = store();
    let value = vec![b'x'; 2 << 20];
    let plain = Tar::new().pax(&[("comment", &value)]).file("a", b"").done();
    let image = try_image(
        &store,
        "header",
        vec![TestLayer {
            blob: gzip(&plain),
            plain,
        }],
    )
    .unwrap();
    let error = unpack(&store, &image).unwrap_err().to_string();
    assert!(error.contains("extended header"), "{error}");
}

#[test]
fn layers_are_unpacked_once_and_shared_by_chain_id() {
    let (_dir, store) = store();
    let base = || Tar::new().file("base", b"");
    let first = image(&store, "first", vec![base(), Tar::new().file("x", b"")]);
    let second = image(&store, "second", vec![base(), Tar::new().file("y", b"")]);
    let first = unpack(&store, &first).unwrap();
    let second = unpack(&store, &second).unwrap();
    assert_eq!(first[1], second[1]);
    assert_ne!(first[0], second[0]);
    // The same layer on top of another one is another chain.
    let third = image(&store, "third", vec![Tar::new().file("z", b""), base()]);
    assert_ne!(unpack(&store, &third).unwrap()[0], first[1]);
}

#[test]
fn a_lease_keeps_layers_until_it_is_released() {
    let (_dir, store) = store();
    let image = image(&store, "leased", vec![Tar::new().file("a", b"12345")]);
    let trees = store.unpack_blocking(&image, "pod-1").unwrap();
    store.unpack_blocking(&image, "pod-1").unwrap();
    store.unpack_blocking(&image, "pod-2").unwrap();
    assert_eq!(store.leases().unwrap(), ["pod-1", "pod-2"]);
    store.remove_image(&image).unwrap();
    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.blobs, report.layers), (3, 0));
    assert!(trees[0].join("a").exists());
    store.release("pod-1").unwrap();
    store.release("pod-1").unwrap();
    assert_eq!(store.prune(PruneOptions::default()).unwrap().layers, 0);
    store.release("pod-2").unwrap();
    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.layers, report.bytes), (1, 5));
    assert!(!trees[0].exists());
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    for name in ["", ".", "..", "a/b", ".lock", "a\0", "-x", &"x".repeat(201)] {
        assert!(
            matches!(store.release(name), Err(Error::InvalidLease(_))),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn callers_in_one_process_share_the_work() {
    let (_dir, store) = store();
    let layers = (0..6)
        .map(|i| Tar::new().file(&format!("d{i}/f"), &[i; 50_000]))
        .collect();
    let image = image(&store, "shared", layers);
    let calls = (0..4).map(|i| {
        let (store, image) = (store.clone(), image.clone());
        tokio::spawn(async move { store.unpack(&image, &format!("lease-{i}")).await })
    });
    let mut results = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        results.push(call.await.unwrap().unwrap());
    }
    assert!(
        results
            .iter()
            .all(|r| *r == results[0] && r.iter().all(|tree| tree.is_dir()))
    );
    assert!(leftovers(&store).is_empty());
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
fn the_data_root_is_private() {
    let (_dir, store) = store();
    assert_eq!(
        fs::metadata(store.root()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
