//! What later entries and layers do to earlier ones.

use super::Cases;
use crate::tarball::{Entry, Tar};

fn t() -> Tar {
    Tar::new()
}

/// A distribution whose `/lib` has moved.
fn merged() -> Tar {
    t().dir("usr")
        .dir("usr/lib")
        .file("usr/lib/libc", "1")
        .symlink("lib", "usr/lib")
}

pub(super) fn add(cases: &mut Cases) {
    merged_usr(cases);
    kinds(cases);
    directories(cases);
    links(cases);
}

fn merged_usr(cases: &mut Cases) {
    let libc = "usr/lib/libc=1";
    cases.tree(
        "merged-usr-file-through-a-lower-link",
        move || vec![merged(), t().file("lib/new", "2")],
        &["lib->usr/lib", "usr/", "usr/lib/", libc, "usr/lib/new=2"],
    );
    cases.tree(
        "merged-usr-replacing-through-a-lower-link",
        || vec![merged(), t().file("lib/libc", "2")],
        &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/libc=2"],
    );
    cases.tree(
        "merged-usr-whiteout-through-a-lower-link",
        || vec![merged(), t().file("lib/.wh.libc", "")],
        &["lib->usr/lib", "usr/", "usr/lib/"],
    );
    cases.tree(
        "merged-usr-deep-through-a-lower-link",
        move || vec![merged(), t().file("lib/x/y/z", "2")],
        &[
            "lib->usr/lib",
            "usr/",
            "usr/lib/",
            libc,
            "usr/lib/x/ @0",
            "usr/lib/x/y/ @0",
            "usr/lib/x/y/z=2",
        ],
    );
    cases.tree(
        "merged-usr-directory-entry-replaces-the-link",
        move || vec![merged(), t().dir("lib").file("lib/new", "2")],
        &["lib/", "lib/new=2", "usr/", "usr/lib/", libc],
    );
    cases.tree(
        "merged-usr-file-then-directory-entry",
        move || vec![merged(), t().file("lib/new", "2").dir("lib")],
        &["lib/", "usr/", "usr/lib/", libc, "usr/lib/new=2"],
    );
    cases.tree(
        "merged-usr-link-above-what-is-below",
        move || {
            vec![
                t().dir("usr").dir("usr/lib").file("usr/lib/libc", "1"),
                t().symlink("lib", "usr/lib").file("lib/new", "2"),
            ]
        },
        &["lib->usr/lib", "usr/", "usr/lib/", libc, "usr/lib/new=2"],
    );
    cases.tree(
        "merged-usr-absolute-link",
        move || {
            vec![
                t().dir("usr")
                    .dir("usr/lib")
                    .file("usr/lib/libc", "1")
                    .symlink("lib", "/usr/lib"),
                t().file("lib/new", "2"),
            ]
        },
        &["lib->/usr/lib", "usr/", "usr/lib/", libc, "usr/lib/new=2"],
    );
    cases.tree(
        "merged-usr-link-replaces-a-lower-directory",
        || {
            vec![
                t().dir("lib").file("lib/old", "1").dir("usr").dir("usr/lib"),
                t().symlink("lib", "usr/lib"),
                t().file("lib/new", "2"),
            ]
        },
        &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/new=2"],
    );
    cases.tree(
        "merged-usr-link-deleted-in-between",
        move || vec![merged(), t().file(".wh.lib", ""), t().file("lib/new", "2")],
        &["lib/ @0", "lib/new=2", "usr/", "usr/lib/", libc],
    );
    cases.tree(
        "merged-usr-link-deleted-in-the-layer",
        move || vec![merged(), t().file(".wh.lib", "").file("lib/new", "2")],
        &["lib/ @0", "lib/new=2", "usr/", "usr/lib/", libc],
    );
    cases.tree(
        "merged-usr-link-through-a-link-of-another-layer",
        || {
            vec![
                t().dir("a").dir("a/b"),
                t().symlink("x", "a"),
                t().symlink("y", "x/b"),
                t().file("y/f", "1"),
            ]
        },
        &["a/", "a/b/", "a/b/f=1", "x->a", "y->x/b"],
    );
    cases.tree(
        "merged-usr-link-with-dotdot",
        || {
            vec![
                t().dir("a").dir("a/b").dir("c").symlink("a/b/up", "../../c"),
                t().file("a/b/up/f", "1"),
            ]
        },
        &["a/", "a/b/", "a/b/up->../../c", "c/", "c/f=1"],
    );
    cases.tree(
        "merged-usr-hardlink-through-the-link",
        move || {
            vec![
                merged(),
                t().file("lib/new", "2")
                    .hardlink("usr/lib/also", "lib/new")
                    .hardlink("lib/too", "usr/lib/new"),
            ]
        },
        &[
            "lib->usr/lib",
            "usr/",
            "usr/lib/",
            "usr/lib/also=2",
            libc,
            "usr/lib/new&usr/lib/also",
            "usr/lib/too&usr/lib/also",
        ],
    );
    cases.refused(
        "link-of-a-lower-layer-to-nothing",
        || vec![t().symlink("l", "gone"), t().file("l/f", "x")],
        "where nothing is",
    );
    cases.refused(
        "link-of-a-lower-layer-to-a-file",
        || vec![t().file("f", "").symlink("l", "f"), t().file("l/f", "x")],
        "not a directory",
    );
    cases.refused(
        "links-of-two-layers-that-loop",
        || vec![t().symlink("a", "b"), t().symlink("b", "a").file("a/f", "x")],
        "too many links",
    );
}

fn kinds(cases: &mut Cases) {
    cases.tree(
        "file-replaced-by-directory",
        || vec![t().file("a", "x").dir("a").file("a/b", "y")],
        &["a/", "a/b=y"],
    );
    cases.tree(
        "directory-replaced-by-file",
        || vec![t().dir("a").file("a/b", "y").file("a", "x")],
        &["a=x"],
    );
    cases.tree(
        "directory-replaced-twice",
        || {
            vec![
                t().dir("a")
                    .file("a/old", "y")
                    .file("a", "x")
                    .dir("a")
                    .file("a/new", "z"),
            ]
        },
        &["a/", "a/new=z"],
    );
    cases.refused(
        "file-with-something-below",
        || vec![t().file("a", "x").file("a/b", "y")],
        "not a directory",
    );
    cases.refused(
        "lower-file-with-something-below",
        || vec![t().file("a", "x"), t().file("a/b", "y")],
        "not a directory",
    );
    cases.tree(
        "lower-file-replaced-by-directory",
        || vec![t().file("a", "x"), t().dir("a").file("a/b", "y")],
        &["a/", "a/b=y"],
    );
    cases.tree(
        "lower-directory-replaced-by-file",
        || vec![t().dir("a").file("a/b", "y"), t().file("a", "x")],
        &["a=x"],
    );
    cases.tree(
        "lower-directory-replaced-by-symlink",
        || vec![t().dir("a").file("a/b", "y").dir("c"), t().symlink("a", "c")],
        &["a->c", "c/"],
    );
    cases.tree(
        "lower-directory-replaced-by-file-and-directory",
        || {
            vec![
                t().dir("a").file("a/old", "y"),
                t().file("a", "x").dir("a").file("a/new", "z"),
            ]
        },
        &["a/", "a/new=z"],
    );
    cases.tree(
        "lower-directory-replaced-in-between",
        || {
            vec![
                t().dir("a").file("a/old", "y"),
                t().file("a", "x"),
                t().dir("a").file("a/new", "z"),
            ]
        },
        &["a/", "a/new=z"],
    );
    cases.tree(
        "lower-file-replaced",
        || {
            vec![
                t().add(&Entry::file("a", "old").mode(0o4755)),
                t().file("a", "new"),
            ]
        },
        &["a=new"],
    );
    cases.tree(
        "lower-hardlink-replaced",
        || vec![t().file("a", "old").hardlink("b", "a"), t().file("a", "new")],
        &["a=new", "b=old"],
    );
    cases.refused(
        "hardlink-to-a-lower-file",
        || vec![t().file("a", "x"), t().hardlink("b", "a")],
        "not in this layer",
    );
    cases.refused(
        "hardlink-to-a-lower-directory",
        || vec![t().dir("a"), t().hardlink("b", "a")],
        "hard link to",
    );
    cases.tree(
        "last-of-three",
        || vec![t().file("a", "1").file("a", "22").file("a", "333")],
        &["a=333"],
    );
    cases.tree(
        "device-replaced-by-file",
        || vec![t().add(&Entry::new(b'4', "a").device(8, 0)).file("a", "x")],
        &["a=x"],
    );
    cases.tree(
        "fifo-then-file-does-not-block",
        || vec![t().add(&Entry::new(b'6', "a")), t().file("a", "x")],
        &["a=x"],
    );
}

fn directories(cases: &mut Cases) {
    let attributes = || {
        t().add(
            &Entry::dir("a")
                .mode(0o2750)
                .owner(1, 2)
                .mtime(5)
                .xattr("user.k", "v"),
        )
    };
    cases.tree(
        "implied-directory-stays-as-it-was",
        move || vec![attributes(), t().file("a/f", "x")],
        &["a/ 2750 1:2 @5 [user.k=v]", "a/f=x"],
    );
    cases.tree(
        "implied-directory-two-layers-up",
        move || vec![attributes(), t().file("other", ""), t().file("a/f", "x")],
        &["a/ 2750 1:2 @5 [user.k=v]", "a/f=x", "other="],
    );
    cases.tree(
        "directory-entry-replaces-all-attributes",
        move || {
            vec![
                attributes().file("a/f", "x"),
                t().add(&Entry::dir("a").xattr("user.other", "w")),
            ]
        },
        &["a/ [user.other=w]", "a/f=x"],
    );
    cases.tree(
        "file-in-a-setgid-directory-has-its-own-group",
        move || vec![attributes(), t().file("a/f", "x").dir("a/d")],
        &["a/ 2750 1:2 @5 [user.k=v]", "a/d/", "a/f=x"],
    );
    cases.tree("default-acl-is-not-inherited", || {
        // Version 2; user:: rwx, user 77 rwx, group:: ---, mask rwx, other ---.
        let acl: &[u8] = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\x4d\0\0\0\x04\0\0\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        vec![t().add(&Entry::dir("a").xattr("system.posix_acl_default", acl)), t().file("a/f", "x").dir("a/d").file("a/d/g", "y")]
    }, &["a/ [system.posix_acl_default=\\x02\\x00\\x00\\x00..44:18ace4b3]", "a/d/", "a/d/g=y", "a/f=x"]);
    cases.tree(
        "times-of-directories-survive-their-entries",
        || {
            vec![
                t().add(&Entry::dir("a").mtime(77)).file("a/f", "x"),
                t().file("a/g", "y"),
                t().file("a/.wh.f", ""),
            ]
        },
        &["a/ @77", "a/g=y"],
    );
    cases.tree(
        "root-stays-as-it-was",
        || {
            vec![
                t().add(&Entry::dir("./").mode(0o711).owner(7, 7)),
                t().file("f", "x"),
            ]
        },
        &["/ 0711 7:7", "f=x"],
    );
    cases.tree(
        "directory-without-permissions",
        || {
            vec![
                t().add(&Entry::dir("a").mode(0)).file("a/f", "x"),
                t().file("a/g", "y"),
            ]
        },
        &["a/ 0000", "a/f=x", "a/g=y"],
    );
    cases.tree(
        "directory-entry-after-its-files",
        || vec![t().file("a/f", "x").add(&Entry::dir("a").mode(0o700).mtime(9))],
        &["a/ 0700 @9", "a/f=x"],
    );
    cases.tree(
        "directory-by-trailing-slash",
        || vec![t().add(&Entry::new(b'0', "a/").mode(0o755)).file("a/f", "x")],
        &["a/", "a/f=x"],
    );
}

fn links(cases: &mut Cases) {
    cases.tree(
        "same-layer-twice",
        || vec![t().dir("a").file("a/f", "x"), t().dir("a").file("a/f", "x")],
        &["a/", "a/f=x"],
    );
    cases.tree("empty-layers", || vec![t(), t().file("f", "x"), t()], &["f=x"]);
    cases.tree(
        "names-that-sort-between",
        || {
            vec![
                t().dir("a")
                    .dir("a-b")
                    .file("a-b/f", "1")
                    .file("a/f", "2")
                    .file("a.c", "3"),
                t().file(".wh.a", ""),
            ]
        },
        &["a-b/", "a-b/f=1", "a.c=3"],
    );
    cases.tree(
        "hundred-layers",
        || {
            (0..100)
                .map(|n| t().dir("d").file(&format!("d/{n:02}"), ""))
                .map(|tar| tar.file("top", "x"))
                .collect()
        },
        &hundred().iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

fn hundred() -> Vec<String> {
    let mut lines = vec!["d/".to_owned()];
    lines.extend((0..100).map(|n| format!("d/{n:02}=")));
    lines.push("top=x".to_owned());
    lines
}
