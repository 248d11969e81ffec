//! Whiteouts (image-spec, layer.md), and names that pretend to be.

use super::Cases;
use crate::tarball::{Entry, Tar};

fn t() -> Tar {
    Tar::new()
}

/// Something to hide.
fn base() -> Tar {
    t().dir("a")
        .file("a/x", "1")
        .file("a/y", "2")
        .dir("a/b")
        .file("a/b/z", "3")
        .file("f", "4")
}

pub(super) fn add(cases: &mut Cases, canary: &str) {
    names(cases, canary);
    single(cases);
    opaque(cases, canary);
}

fn names(cases: &mut Cases, canary: &str) {
    cases.refused(
        "whiteout-of-the-parent",
        || vec![base(), t().file("a/.wh...", "")],
        "whiteout of no file",
    );
    cases.refused(
        "whiteout-of-the-roots-parent",
        || vec![base(), t().file(".wh...", "")],
        "whiteout of no file",
    );
    cases.refused(
        "whiteout-of-the-directory",
        || vec![base(), t().file("a/.wh..", "")],
        "whiteout of no file",
    );
    cases.refused(
        "whiteout-of-the-root",
        || vec![base(), t().file(".wh..", "")],
        "whiteout of no file",
    );
    cases.refused(
        "whiteout-of-nothing",
        || vec![base(), t().file(".wh.", "")],
        "whiteout of no file",
    );
    cases.refused(
        "whiteout-as-a-directory",
        || vec![base(), t().file(".wh.a/x", "")],
        "cannot be a directory",
    );
    cases.refused(
        "whiteout-dotdot-as-a-directory",
        || vec![base(), t().file(".wh.../x", "")],
        "cannot be a directory",
    );
    cases.refused(
        "opaque-as-a-directory",
        || vec![base(), t().file(".wh..wh..opq/x", "")],
        "cannot be a directory",
    );
    cases.tree(
        "whiteout-of-three-dots",
        || vec![t().file("...", "x").file("k", ""), t().file(".wh....", "")],
        &["k="],
    );
    cases.tree(
        "aufs-names-mean-nothing",
        || {
            vec![
                base(),
                t().file(".wh..wh.aufs", "x")
                    .dir(".wh..wh.plnk")
                    .file(".wh..wh.plnk/1.2", "x")
                    .file("a/.wh..wh.orph", "x"),
            ]
        },
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=4"],
    );
    cases.tree(
        "aufs-whiteout-as-hardlink",
        || {
            vec![
                base(),
                t().file(".wh..wh.aufs", "").hardlink("a/.wh.x", ".wh..wh.aufs"),
            ]
        },
        &["a/", "a/b/", "a/b/z=3", "a/y=2", "f=4"],
    );
    cases.tree(
        "whiteout-with-content",
        || vec![base(), t().file(".wh.a", "some bytes")],
        &["f=4"],
    );
    cases.tree(
        "whiteout-as-directory-entry",
        || vec![base(), t().dir(".wh.a")],
        &["f=4"],
    );
    cases.tree(
        "whiteout-prefix-only-in-part",
        || vec![t().file(".whiteout", "x").file("a.wh.b", "y")],
        &[".whiteout=x", "a.wh.b=y"],
    );
    cases.refused(
        "whiteout-dotdot-path",
        || vec![base(), t().file("../.wh.x", "")],
        "\"..\"",
    );
    let canary = canary.to_owned();
    cases.refused(
        "whiteout-through-symlink-out",
        move || vec![t().symlink("l", &canary), t().file("l/.wh.secret", "")],
        "where nothing is",
    );
}

fn single(cases: &mut Cases) {
    cases.tree(
        "whiteout-of-a-file",
        || vec![base(), t().dir("a").file("a/.wh.x", "")],
        &["a/", "a/b/", "a/b/z=3", "a/y=2", "f=4"],
    );
    cases.tree(
        "whiteout-of-a-tree",
        || vec![base(), t().file(".wh.a", "")],
        &["f=4"],
    );
    cases.tree(
        "whiteout-of-what-is-not-there",
        || vec![base(), t().file("a/.wh.none", "").file(".wh.none", "")],
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=4"],
    );
    cases.tree(
        "whiteout-in-a-directory-that-is-not-there",
        || vec![base(), t().file("new/.wh.x", "")],
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=4", "new/ @0"],
    );
    cases.refused(
        "whiteout-in-a-file",
        || vec![base(), t().file("f/.wh.x", "")],
        "not a directory",
    );
    cases.tree(
        "delete-then-recreate-directory",
        || vec![base(), t().file(".wh.a", "").dir("a").file("a/new", "n")],
        &["a/", "a/new=n", "f=4"],
    );
    cases.tree(
        "recreate-then-delete-directory",
        || vec![base(), t().dir("a").file("a/new", "n").file(".wh.a", "")],
        &["a/", "a/new=n", "f=4"],
    );
    cases.tree(
        "delete-then-imply-directory",
        || {
            vec![
                t().add(&Entry::dir("a").mode(0o700).owner(5, 6)).file("a/x", "1"),
                t().file(".wh.a", "").file("a/new", "n"),
            ]
        },
        &["a/ @0", "a/new=n"],
    );
    cases.tree(
        "imply-then-delete-directory",
        || {
            vec![
                t().add(&Entry::dir("a").mode(0o700).owner(5, 6)).file("a/x", "1"),
                t().file("a/new", "n").file(".wh.a", ""),
            ]
        },
        &["a/ 0700 5:6", "a/new=n"],
    );
    cases.tree(
        "delete-then-recreate-file",
        || vec![base(), t().file(".wh.f", "").file("f", "new")],
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=new"],
    );
    cases.tree(
        "recreate-then-delete-file",
        || vec![base(), t().file("f", "new").file(".wh.f", "")],
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=new"],
    );
    cases.tree(
        "delete-directory-then-make-file",
        || vec![base(), t().file(".wh.a", "").file("a", "now a file")],
        &["a=now a file", "f=4"],
    );
    cases.tree(
        "delete-then-file-then-directory",
        || {
            vec![
                base(),
                t().file(".wh.a", "").file("a", "x").dir("a").file("a/n", "n"),
            ]
        },
        &["a/", "a/n=n", "f=4"],
    );
    cases.tree(
        "delete-twice",
        || vec![base(), t().file(".wh.a", "").file(".wh.a", "")],
        &["f=4"],
    );
    cases.tree(
        "delete-below-what-is-deleted",
        || vec![base(), t().file("a/b/.wh.z", "").file(".wh.a", "")],
        &["f=4"],
    );
    cases.tree(
        "delete-then-hardlink-there",
        || vec![base(), t().file("n", "n").file(".wh.a", "").hardlink("a", "n")],
        &["a=n", "f=4", "n&a"],
    );
    cases.tree(
        "deleted-in-one-made-in-the-next",
        || vec![base(), t().file(".wh.a", ""), t().dir("a").file("a/n", "n")],
        &["a/", "a/n=n", "f=4"],
    );
    cases.tree(
        "deleted-in-one-implied-in-the-next",
        || {
            vec![
                t().add(&Entry::dir("a").mode(0o700)).file("a/x", "1"),
                t().file(".wh.a", ""),
                t().file("a/n", "n"),
            ]
        },
        &["a/ @0", "a/n=n"],
    );
    cases.tree(
        "whiteout-of-own-file-only",
        || vec![t().file("f", "x").file(".wh.f", "")],
        &["f=x"],
    );
    cases.tree(
        "whiteout-in-the-lowest-layer",
        || vec![t().file(".wh.f", "").dir("a").file("a/.wh..wh..opq", "")],
        &["a/"],
    );
    cases.tree(
        "whiteout-between-hardlinks",
        || vec![t().file("a", "x").hardlink("b", "a"), t().file(".wh.a", "")],
        &["b=x"],
    );
}

fn opaque(cases: &mut Cases, canary: &str) {
    cases.tree(
        "opaque-directory",
        || vec![base(), t().dir("a").file("a/.wh..wh..opq", "").file("a/n", "n")],
        &["a/", "a/n=n", "f=4"],
    );
    cases.tree(
        "opaque-after-its-entries",
        || vec![base(), t().dir("a").file("a/n", "n").file("a/.wh..wh..opq", "")],
        &["a/", "a/n=n", "f=4"],
    );
    cases.tree(
        "opaque-with-deeper-entries",
        || {
            vec![
                base(),
                t().dir("a")
                    .dir("a/b")
                    .file("a/b/n", "n")
                    .file("a/.wh..wh..opq", ""),
            ]
        },
        &["a/", "a/b/", "a/b/n=n", "f=4"],
    );
    cases.tree(
        "opaque-before-deeper-entries",
        || vec![base(), t().dir("a").file("a/.wh..wh..opq", "").file("a/b/n", "n")],
        &["a/", "a/b/ @0", "a/b/n=n", "f=4"],
    );
    cases.tree(
        "opaque-implied-directory",
        || {
            vec![
                t().add(&Entry::dir("a").mode(0o700).owner(5, 6)).file("a/x", "1"),
                t().file("a/.wh..wh..opq", ""),
            ]
        },
        &["a/ 0700 5:6"],
    );
    cases.tree(
        "opaque-directory-that-is-not-there",
        || vec![base(), t().file("new/.wh..wh..opq", "")],
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=4", "new/ @0"],
    );
    cases.tree(
        "opaque-root",
        || vec![base(), t().file(".wh..wh..opq", "").file("n", "n")],
        &["n=n"],
    );
    cases.tree(
        "opaque-root-last",
        || vec![base(), t().file("n", "n").file(".wh..wh..opq", "")],
        &["n=n"],
    );
    cases.tree(
        "opaque-root-with-a-directory-of-the-same-name",
        || vec![base(), t().file(".wh..wh..opq", "").dir("a").file("a/n", "n")],
        &["a/", "a/n=n"],
    );
    cases.tree(
        "opaque-root-with-an-implied-directory",
        || vec![base(), t().file(".wh..wh..opq", "").file("a/b/n", "n")],
        &["a/ @0", "a/b/ @0", "a/b/n=n"],
    );
    cases.tree(
        "opaque-root-last-with-an-implied-directory",
        || vec![base(), t().file("a/b/n", "n").file(".wh..wh..opq", "")],
        &["a/", "a/b/", "a/b/n=n"],
    );
    cases.tree(
        "opaque-twice-across-layers",
        || {
            vec![
                base(),
                t().file("a/.wh..wh..opq", "").file("a/1", ""),
                t().file("a/.wh..wh..opq", "").file("a/2", ""),
            ]
        },
        &["a/", "a/2=", "f=4"],
    );
    cases.refused(
        "opaque-in-a-file",
        || vec![base(), t().file("f/.wh..wh..opq", "")],
        "not a directory",
    );
    cases.tree(
        "opaque-through-a-symlink",
        || {
            vec![
                base().symlink("l", "a"),
                t().file("l/.wh..wh..opq", "").file("l/n", "n"),
            ]
        },
        &["a/", "a/n=n", "f=4", "l->a"],
    );
    cases.tree(
        "opaque-through-a-symlink-of-its-own",
        || vec![base(), t().symlink("l", "a").file("l/.wh..wh..opq", "")],
        &["a/", "f=4", "l->a"],
    );
    let canary = canary.to_owned();
    cases.refused(
        "opaque-through-a-symlink-out",
        move || vec![base().symlink("l", &canary), t().file("l/.wh..wh..opq", "")],
        "where nothing is",
    );
    cases.tree(
        "opaque-spares-what-came-through-a-symlink",
        || {
            vec![
                base().symlink("l", "a"),
                t().file("l/n", "n").file("a/.wh..wh..opq", ""),
            ]
        },
        &["a/", "a/n=n", "f=4", "l->a"],
    );
    cases.tree(
        "opaque-root-spares-what-came-through-a-symlink",
        || {
            vec![
                base().symlink("l", "a"),
                t().file("l/n", "n").file(".wh..wh..opq", ""),
            ]
        },
        &["a/", "a/n=n"],
    );
    cases.tree(
        "opaque-root-hides-a-directory-with-nothing-but-an-opaque-whiteout",
        || vec![base(), t().file("a/.wh..wh..opq", "").file(".wh..wh..opq", "")],
        &[],
    );
    cases.tree(
        "opaque-root-hides-a-directory-with-nothing-but-a-whiteout",
        || vec![base(), t().file("a/b/.wh.z", "").file(".wh..wh..opq", "")],
        &[],
    );
    cases.tree(
        "opaque-root-hides-what-a-whiteout-implied-and-a-later-one-implies-again",
        || {
            vec![
                base(),
                t().file("a/b/.wh.z", "")
                    .file(".wh..wh..opq", "")
                    .file("a/b/.wh..wh..opq", ""),
            ]
        },
        &["a/ @0", "a/b/ @0"],
    );
    cases.tree(
        "opaque-directory-hides-one-with-nothing-but-a-whiteout",
        || vec![base(), t().file("a/b/.wh.z", "").file("a/.wh..wh..opq", "")],
        &["a/", "f=4"],
    );
    cases.tree(
        "opaque-xattrs-of-an-archive-are-dropped",
        || {
            vec![
                base(),
                t().add(
                    &Entry::dir("a")
                        .xattr("trusted.overlay.opaque", "y")
                        .xattr("user.overlay.opaque", "y"),
                ),
            ]
        },
        &["a/", "a/b/", "a/b/z=3", "a/x=1", "a/y=2", "f=4"],
    );
}
