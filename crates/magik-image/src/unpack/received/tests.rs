use std::{fs, os::unix::fs::MetadataExt};

use super::*;

/// An archive of these entries: kind, name, link's target or content.
fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6751);
        header.set_uid(1234);
        header.set_gid(1234);
        header.set_mtime(1);
        // The builder's own setters refuse what an attacker writes.
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        let content: &[u8] = match kind {
            tar::EntryType::Regular => text.as_bytes(),
            _ => {
                raw[157..157 + text.len()].copy_from_slice(text.as_bytes());
                b""
            }
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

use tar::EntryType::{Block, Directory, Fifo, Link, Regular, Symlink};

fn receive(dir: &Path, entries: &[(tar::EntryType, &str, &str)], name: &str) -> Result<ReceivedTree> {
    let wanted = if name.is_empty() {
        Wanted::Contents
    } else {
        Wanted::Name(OsStr::new(name))
    };
    received(&archive(entries), dir, wanted, &Limits::default())
}

fn received(archive: &[u8], dir: &Path, wanted: Wanted<'_>, limits: &Limits) -> Result<ReceivedTree> {
    let opened = fs::File::open(dir).unwrap().into();
    ReceivedTree::receive(archive, opened, dir, wanted, limits)
}

fn listed(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_tree_is_moved_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let sent = [
        (Directory, "./site/", ""),
        (Regular, "./site/index.html", "hello"),
        (Symlink, "./site/out", "/etc/passwd"),
        (Symlink, "./site/in", "index.html"),
        (Link, "./site/again", "./site/index.html"),
        (Fifo, "./site/pipe", ""),
        (Regular, "./site/.wh.index.html", "no whiteout"),
    ];
    let tree = receive(dir.path(), &sent, "site").unwrap();
    assert_eq!((tree.skipped(), tree.is_directory().unwrap()), (2, Some(true)));
    assert!(!dir.path().join("new").exists(), "nothing before place");
    tree.place(Some(OsStr::new("new"))).unwrap();
    assert_eq!(listed(dir.path()), ["new"]);
    let new = dir.path().join("new");
    assert_eq!(listed(&new), [".wh.index.html", "again", "in", "index.html"]);
    assert_eq!(fs::read_link(new.join("in")).unwrap(), Path::new("index.html"));
    let index = fs::metadata(new.join("index.html")).unwrap();
    assert_eq!(index.mode() & 0o7777, 0o751, "no setuid, no setgid");
    assert_eq!(index.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(index.nlink(), 2);

    // Once more: directories are merged, files replaced, what was there stays.
    fs::write(new.join("own"), "mine").unwrap();
    let again = [
        (Directory, "site", ""),
        (Regular, "site/index.html", "second"),
        (Regular, "site/out", "a file now"),
    ];
    let tree = receive(dir.path(), &again, "site").unwrap();
    tree.place(Some(OsStr::new("new"))).unwrap();
    assert_eq!(fs::read(new.join("index.html")).unwrap(), b"second");
    assert_eq!(fs::read(new.join("out")).unwrap(), b"a file now");
    assert_eq!(fs::read(new.join("own")).unwrap(), b"mine");
    // And what is in it, without a name.
    let tree = receive(&new, &[(Regular, "./x", "x")], "").unwrap();
    tree.place(None).unwrap();
    assert_eq!(fs::read(new.join("x")).unwrap(), b"x");
    assert_eq!(listed(dir.path()), ["new"]);
}

#[test]
fn a_tree_that_reaches_out_is_refused_and_leaves_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let (there, dir) = (outside.path().join("there"), outside.path().join("dir"));
    fs::create_dir(&dir).unwrap();
    fs::write(&there, "precious").unwrap();
    let absolute = there.to_str().unwrap();
    let directory = (Directory, "a", "");
    for (what, entries, says) in [
        ("..", vec![directory, (Regular, "a/../../there", "x")], ".."),
        (
            "a name of its own",
            vec![directory, (Regular, "b", "x")],
            "nobody asked",
        ),
        ("an absolute name", vec![(Regular, absolute, "x")], "nobody asked"),
        (
            "a name that begins alike",
            vec![(Regular, "ab", "x")],
            "nobody asked",
        ),
        (
            "through a link out",
            vec![directory, (Symlink, "a/l", "../.."), (Regular, "a/l/there", "x")],
            "through a symbolic link",
        ),
        (
            "through an absolute link",
            vec![directory, (Symlink, "a/l", "/"), (Regular, "a/l/x", "x")],
            "through a symbolic link",
        ),
        (
            "a link in its own place",
            vec![(Symlink, "a", "/tmp"), (Regular, "a/x", "x")],
            "through a symbolic link",
        ),
        (
            "a hard link out",
            vec![directory, (Link, "a/l", "../there")],
            "..",
        ),
        (
            "an absolute hard link",
            vec![directory, (Link, "a/l", absolute)],
            "which is not in this",
        ),
        (
            "a hard link through a link",
            vec![directory, (Symlink, "a/s", "/"), (Link, "a/l", "a/s/x")],
            "through a symbolic link",
        ),
        ("a device", vec![directory, (Block, "a/sda", "")], "devices"),
    ] {
        let error = receive(&dir, &entries, "a").unwrap_err().to_string();
        assert!(error.contains(says), "{what}: {error}");
        assert_eq!(listed(&dir), Vec::<String>::new(), "{what}");
        assert_eq!(fs::read(&there).unwrap(), b"precious", "{what}");
    }
}

#[test]
fn a_file_through_a_replaced_link_is_no_file_elsewhere() {
    // The link is opened for writing by none: the second entry takes its place.
    let outside = tempfile::tempdir().unwrap();
    let there = outside.path().join("there");
    fs::write(&there, "precious").unwrap();
    let dir = outside.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let sent = [
        (Symlink, "a", there.to_str().unwrap()),
        (Regular, "a", "replaced"),
    ];
    let tree = receive(&dir, &sent, "a").unwrap();
    tree.place(Some(OsStr::new("a"))).unwrap();
    assert_eq!(fs::read(&there).unwrap(), b"precious");
    assert_eq!(fs::read(dir.join("a")).unwrap(), b"replaced");
}

#[test]
fn what_is_in_the_way_is_named_and_nothing_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/c"), "old").unwrap();
    for sent in [
        [
            (Directory, "a", ""),
            (Regular, "a/c", "new"),
            (Regular, "a/b", "a file"),
        ],
        [
            (Directory, "a", ""),
            (Directory, "a/b", ""),
            (Directory, "a/c", ""),
        ],
    ] {
        let tree = receive(dir.path(), &sent, "a").unwrap();
        let error = tree.place(Some(OsStr::new("a"))).unwrap_err();
        assert!(matches!(error, Error::NotPlaced { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join("a/c")).unwrap(), b"old");
        assert_eq!(listed(dir.path()), ["a"]);
    }
}

#[test]
fn a_tree_has_limits_and_its_archive_ends() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_rootfs_size: 100,
        max_files_per_layer: 3,
        max_names_size: 100,
        ..Limits::default()
    };
    let large = "x".repeat(101);
    let many = [
        (Directory, "a", ""),
        (Regular, "a/1", ""),
        (Regular, "a/2", ""),
        (Regular, "a/3", ""),
    ];
    let endless = [archive(&[(Regular, "a", "x")]), vec![0; 2 << 20]].concat();
    let cut = archive(&[(Regular, "a", "0123456789")])[..515].to_vec();
    for (archive, says) in [
        (archive(&[(Regular, "a", &large)]), "larger than 100 bytes"),
        (archive(&many), "files: more than 3"),
        (endless, "larger than 100 bytes"),
        (cut, "in the middle"),
        (b"no archive at all".repeat(40), "header"),
    ] {
        let wanted = Wanted::Name(OsStr::new("a"));
        let error = received(&archive, dir.path(), wanted, &limits);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
        assert_eq!(listed(dir.path()), Vec::<String>::new());
    }
}

#[test]
fn links_that_lead_out_are_left_out() {
    for (path, wanted, target, out) in [
        ("a", "a", "b", true),
        ("a/l", "a", "b", false),
        ("a/l", "a", "./b/c", false),
        ("a/l", "a", "..", true),
        ("a/b/l", "a", "..", false),
        ("a/b/l", "a", "../c", false),
        ("a/b/l", "a", "../../x", true),
        ("a/b/l", "a", "c/..", true),
        ("a/b/l", "a", "/", true),
        ("l", "", "x", false),
        ("l", "", "../x", true),
        ("b/l", "", "../x", false),
    ] {
        let leads = leads_out(path.as_bytes(), wanted.as_bytes(), target.as_bytes());
        assert_eq!(leads, out, "{path} of {wanted:?} to {target}");
    }
    // Also by another name of theirs.
    let dir = tempfile::tempdir().unwrap();
    let sent = [
        (Directory, "a", ""),
        (Symlink, "a/s", "/etc"),
        (Link, "a/h", "a/s"),
        (Regular, "a/f", ""),
    ];
    let tree = receive(dir.path(), &sent, "a").unwrap();
    assert_eq!(tree.skipped(), 2);
    tree.place(Some(OsStr::new("a"))).unwrap();
    assert_eq!(listed(&dir.path().join("a")), ["f"]);
}

/// The directory where it goes is moved away, and a link is put in its place.
#[test]
fn who_renames_the_directory_meanwhile_chooses_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (there, victim) = (dir.path().join("there"), dir.path().join("victim"));
    fs::create_dir(&there).unwrap();
    fs::create_dir(&victim).unwrap();
    for name in [None, Some("new")] {
        let sent = [(Regular, "./x", "x")];
        let tree = receive(&there, &sent, "").unwrap();
        fs::rename(&there, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&victim, &there).unwrap();
        match name {
            None => tree.place(None).unwrap(),
            Some(name) => tree.place_as_new(OsStr::new(name)).unwrap(),
        }
        assert_eq!(listed(&victim), Vec::<String>::new());
        fs::remove_file(&there).unwrap();
        fs::rename(dir.path().join("moved"), &there).unwrap();
    }
    assert_eq!(listed(&there), ["new", "x"]);
    assert_eq!(listed(&there.join("new")), ["x"]);
}
