//! Paths and links that lead out of the root.

use super::Cases;
use crate::tarball::{Entry, Tar};

pub(super) fn add(cases: &mut Cases, canary: &str) {
    paths(cases);
    symlinks(cases, canary);
    hardlinks(cases, canary);
}

fn t() -> Tar {
    Tar::new()
}

fn paths(cases: &mut Cases) {
    cases.refused("dotdot-file", || vec![t().file("../evil", "x")], "\"..\"");
    cases.refused("dotdot-inside", || vec![t().file("a/../../evil", "x")], "\"..\"");
    cases.refused(
        "dotdot-that-stays-inside",
        || vec![t().dir("a").file("a/../b", "x")],
        "\"..\"",
    );
    cases.refused("dotdot-directory", || vec![t().dir("..")], "\"..\"");
    cases.refused("dotdot-absolute", || vec![t().file("/../evil", "x")], "\"..\"");
    cases.refused("dotdot-symlink", || vec![t().symlink("../evil", "x")], "\"..\"");
    cases.refused(
        "dotdot-in-long-name",
        || vec![t().file(&format!("{}/../../../../evil", "d/".repeat(80)), "x")],
        "\"..\"",
    );
    cases.refused(
        "dotdot-in-pax-path",
        || vec![t().add(&Entry::file("f", "x").pax("path", "../evil"))],
        "\"..\"",
    );
    cases.refused(
        "dotdot-in-prefix",
        || vec![t().add(&Entry::file("evil", "x").ustar("a/.."))],
        "\"..\"",
    );
    cases.tree(
        "three-dots",
        || vec![t().dir("...").file(".../..a", "y")],
        &[".../", ".../..a=y"],
    );
    cases.tree(
        "absolute",
        || vec![t().file("/etc/passwd", "x")],
        &["etc/ @0", "etc/passwd=x"],
    );
    cases.tree(
        "many-slashes",
        || vec![t().dir("//a//").file("///a////b", "x")],
        &["a/", "a/b=x"],
    );
    cases.tree(
        "dot-slash",
        || vec![t().dir("./").dir("./a/.").file("././a/./b", "x")],
        &["/", "a/", "a/b=x"],
    );
    cases.tree(
        "root-as-dot",
        || vec![t().add(&Entry::dir(".").mode(0o711))],
        &["/ 0711"],
    );
    cases.tree(
        "root-as-slash",
        || vec![t().add(&Entry::dir("/").mode(0o711).owner(3, 4))],
        &["/ 0711 3:4"],
    );
    cases.refused("root-as-file", || vec![t().file(".", "x")], "the root of a layer");
    cases.refused(
        "root-as-symlink",
        || vec![t().symlink("./", "/etc")],
        "the root of a layer",
    );
    cases.refused(
        "root-as-device",
        || vec![t().add(&Entry::new(b'3', "/").device(1, 3))],
        "the root of a layer",
    );
    cases.refused("empty-name", || vec![t().file("", "x")], "empty path");
    cases.refused(
        "nul-in-pax-path",
        || vec![t().add(&Entry::file("f", "x").pax("path", "a\0b"))],
        "NUL",
    );
    cases.refused(
        "nul-in-long-name",
        || vec![t().extended(b'L', b"a\0b\0").file("f", "x")],
        "NUL",
    );
    cases.refused(
        "nul-in-pax-linkpath",
        || vec![t().add(&Entry::new(b'2', "l").to("x").pax("linkpath", "a\0b"))],
        "NUL",
    );
    cases.refused(
        "nul-in-hardlink",
        || {
            vec![
                t().file("a", "x")
                    .add(&Entry::new(b'1', "l").to("x").pax("linkpath", "a\0b")),
            ]
        },
        "NUL",
    );
    cases.tree(
        "name-behind-a-nul",
        || vec![t().add(&Entry::file("a\0../../evil", "x"))],
        &["a=x"],
    );
    cases.refused(
        "component-of-256",
        || vec![t().file(&"n".repeat(256), "x")],
        "longer than 255",
    );
    cases.tree(
        "component-of-255",
        || vec![t().file(&"n".repeat(255), "x")],
        &["nnnnnnnnnnnnnnnn..255:3bb555e4=x"],
    );
    cases.refused(
        "path-of-4097",
        || vec![t().file(&format!("{}f", "d/".repeat(2048)), "x")],
        "longer than 4095",
    );
    cases.refused(
        "symlink-target-of-4096",
        || vec![t().symlink("l", &"t".repeat(4096))],
        "longer than 4095",
    );
    cases.tree(
        "odd-names",
        || {
            vec![
                t().file("a b", "")
                    .file("*", "")
                    .file("$(touch evil)", "")
                    .file("-rf", "")
                    .file("a\nb", "")
                    .add(&Entry::file(b"\xff\xfe", "")),
            ]
        },
        &["$(touch evil)=", "*=", "-rf=", "a\\nb=", "a b=", "\\xff\\xfe="],
    );
    cases.tree(
        "case-folding",
        || vec![t().dir("Etc").file("Etc/A", "1").dir("etc").file("etc/a", "2")],
        &["Etc/", "Etc/A=1", "etc/", "etc/a=2"],
    );
    cases.tree(
        "unicode-normalisation",
        || vec![t().file("e\u{301}", "1").file("\u{e9}", "2")],
        &["e\\xcc\\x81=1", "\\xc3\\xa9=2"],
    );
}

fn symlinks(cases: &mut Cases, canary: &str) {
    let to = |make: fn(&str) -> Tar| {
        let canary = canary.to_owned();
        move || vec![make(&canary)]
    };
    cases.refused(
        "symlink-out-then-file",
        to(|c| t().symlink("l", c).file("l/evil", "x")),
        "where nothing is",
    );
    cases.refused(
        "symlink-out-then-overwrite",
        to(|c| t().symlink("l", c).file("l/secret", "x")),
        "where nothing is",
    );
    cases.refused(
        "symlink-out-then-directory",
        to(|c| t().symlink("l", c).dir("l/evil/dir")),
        "where nothing is",
    );
    cases.refused(
        "symlink-out-then-symlink",
        to(|c| t().symlink("l", c).symlink("l/evil", "x")),
        "where nothing is",
    );
    cases.refused(
        "symlink-out-then-device",
        to(|c| t().symlink("l", c).add(&Entry::new(b'3', "l/evil").device(1, 3))),
        "where nothing is",
    );
    cases.refused(
        "symlink-out-then-fifo",
        to(|c| t().symlink("l", c).add(&Entry::new(b'6', "l/evil"))),
        "where nothing is",
    );
    cases.refused(
        "symlink-out-in-two-steps",
        to(|c| t().symlink("a", c).symlink("b", "a").file("b/evil", "x")),
        "where nothing is",
    );
    cases.refused(
        "symlink-up-then-file",
        || {
            vec![
                t().dir("d")
                    .symlink("d/up", "../../../../../../../tmp")
                    .file("d/up/evil", "x"),
            ]
        },
        "where nothing is",
    );
    cases.tree(
        "symlink-up-ends-at-the-root",
        || vec![t().symlink("up", "../../..").file("up/f", "x")],
        &["f=x", "up->../../.."],
    );
    cases.tree(
        "symlink-to-proc-is-below-the-root",
        || {
            vec![
                t().dir("proc/self/cwd")
                    .symlink("l", "/proc/self/cwd")
                    .file("l/f", "x"),
            ]
        },
        &[
            "l->/proc/self/cwd",
            "proc/ @0",
            "proc/self/ @0",
            "proc/self/cwd/",
            "proc/self/cwd/f=x",
        ],
    );
    cases.tree(
        "directory-over-symlink-out",
        to(|c| t().symlink("l", c).dir("l").file("l/f", "x")),
        &["l/", "l/f=x"],
    );
    cases.tree(
        "file-over-symlink-out",
        to(|c| t().symlink("l", &format!("{c}/secret")).file("l", "x")),
        &["l=x"],
    );
    cases.tree(
        "symlink-over-symlink",
        || vec![t().symlink("l", "/a").symlink("l", "/b")],
        &["l->/b"],
    );
    cases.tree(
        "symlink-replaced-between",
        to(|c| {
            t().dir("safe")
                .symlink("l", "safe")
                .file("l/a", "1")
                .symlink("l", c)
                .dir("l")
                .file("l/b", "2")
        }),
        &["l/", "l/b=2", "safe/", "safe/a=1"],
    );
    cases.refused(
        "symlink-swapped-in-for-the-cached-parent",
        to(|c| t().dir("d").file("d/a", "1").symlink("d", c).file("d/evil", "x")),
        "where nothing is",
    );
    cases.refused(
        "symlink-loop",
        || vec![t().symlink("a", "b").symlink("b", "a").file("a/f", "x")],
        "too many links",
    );
    cases.refused(
        "symlink-to-itself",
        || vec![t().symlink("a", "a").file("a/f", "x")],
        "too many links",
    );
    cases.refused(
        "symlinks-that-double",
        || {
            let mut tar = t().dir("d").symlink("l0", "d");
            for n in 1..30 {
                tar = tar.symlink(&format!("l{n}"), &format!("l{}/../l{}", n - 1, n - 1));
            }
            vec![tar.file("l29/f", "x")]
        },
        "too many links",
    );
    cases.refused(
        "symlink-to-a-file-as-parent",
        || vec![t().file("f", "x").symlink("l", "f").file("l/g", "y")],
        "not a directory",
    );
    cases.refused(
        "symlink-dangling-as-parent",
        || vec![t().symlink("l", "later").file("l/f", "x").dir("later")],
        "where nothing is",
    );
    cases.refused(
        "symlink-without-target",
        || vec![t().symlink("l", "")],
        "without a target",
    );
    cases.tree(
        "merged-usr-in-one-layer",
        || {
            vec![
                t().dir("usr")
                    .dir("usr/lib")
                    .symlink("lib", "usr/lib")
                    .file("lib/a", "1")
                    .file("/lib/b", "2"),
            ]
        },
        &["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/a=1", "usr/lib/b=2"],
    );
    cases.tree(
        "symlink-through-symlink",
        || {
            vec![
                t().dir("a")
                    .dir("a/b")
                    .symlink("x", "/a")
                    .symlink("a/y", "../x/b")
                    .file("x/y/f", "1"),
            ]
        },
        &["a/", "a/b/", "a/b/f=1", "a/y->../x/b", "x->/a"],
    );
    cases.refused(
        "deep-through-a-link",
        || {
            let deep = "d/".repeat(1500);
            vec![
                t().dir(&deep)
                    .symlink("l", deep.trim_end_matches('/'))
                    .dir(&format!("l/{}", "e/".repeat(1500))),
            ]
        },
        "through links, is longer than 4095",
    );
}

fn hardlinks(cases: &mut Cases, canary: &str) {
    let to = |make: fn(&str) -> Tar| {
        let canary = canary.to_owned();
        move || vec![make(&canary)]
    };
    cases.refused(
        "hardlink-out",
        to(|c| t().hardlink("h", &format!("{c}/secret"))),
        "not in this layer",
    );
    cases.refused(
        "hardlink-up",
        || vec![t().hardlink("h", "../../outside/secret")],
        "\"..\"",
    );
    cases.refused(
        "hardlink-through-symlink-out",
        to(|c| t().symlink("l", c).hardlink("h", "l/secret")),
        "not in this layer",
    );
    cases.refused(
        "hardlink-over-what-it-wrote",
        to(|c| {
            t().symlink("l", &format!("{c}/secret"))
                .hardlink("h", "l")
                .file("h/x", "evil")
        }),
        "its parent",
    );
    cases.tree(
        "hardlink-to-symlink-links-the-link",
        to(|_| t().symlink("l", "/nowhere").hardlink("h", "l")),
        &["h->/nowhere", "l&h"],
    );
    cases.tree(
        "hardlink-to-symlink-then-write",
        to(|_| t().symlink("l", "/nowhere").hardlink("h", "l").file("h", "x")),
        &["h=x", "l->/nowhere"],
    );
    cases.refused(
        "hardlink-to-directory",
        || vec![t().dir("d").hardlink("h", "d")],
        "hard link to a directory",
    );
    cases.refused(
        "hardlink-to-the-root",
        || vec![t().hardlink("h", "/")],
        "hard link to a directory",
    );
    cases.refused(
        "hardlink-to-itself",
        || vec![t().file("h", "x").hardlink("h", "h")],
        "itself",
    );
    cases.refused(
        "hardlink-to-itself-by-another-name",
        || {
            vec![
                t().dir("d")
                    .symlink("l", "d")
                    .file("d/h", "x")
                    .hardlink("l/h", "d/h"),
            ]
        },
        "itself",
    );
    cases.refused(
        "hardlink-before-its-target",
        || vec![t().hardlink("h", "f").file("f", "x")],
        "not in this layer",
    );
    cases.refused(
        "hardlink-without-target",
        || vec![t().hardlink("h", "")],
        "without a target",
    );
    cases.refused(
        "hardlink-to-what-it-replaces",
        || vec![t().dir("d").file("d/f", "x").hardlink("d", "d/f")],
        "what it replaces",
    );
    cases.tree(
        "hardlink-to-fifo",
        || vec![t().add(&Entry::new(b'6', "p")).hardlink("h", "p")],
        &["h|", "p&h"],
    );
    cases.tree(
        "hardlink-to-device",
        || {
            vec![
                t().add(&Entry::new(b'3', "null").device(1, 3))
                    .hardlink("h", "null"),
            ]
        },
        &["h:c1,3", "null&h"],
    );
    cases.tree(
        "hardlink-replaces-a-directory",
        || vec![t().file("f", "x").dir("d").file("d/y", "y").hardlink("d", "f")],
        &["d=x", "f&d"],
    );
    cases.tree(
        "hardlink-through-symlink-inside",
        || {
            vec![
                t().dir("usr")
                    .symlink("bin", "usr")
                    .file("usr/a", "x")
                    .hardlink("b", "bin/a"),
            ]
        },
        &["b=x", "bin->usr", "usr/", "usr/a&b"],
    );
    cases.tree(
        "file-over-one-of-two-hardlinks",
        || vec![t().file("a", "old").hardlink("b", "a").file("a", "new")],
        &["a=new", "b=old"],
    );
    cases.refused(
        "hardlink-with-content",
        || {
            let hidden = t().file("smuggled", "x").open();
            vec![
                t().file("f", "x")
                    .add(&Entry::file("h", hidden).kind(b'1').to("f")),
            ]
        },
        "it has content and is no file",
    );
    cases.refused(
        "hardlink-to-whiteout",
        || vec![t().file(".wh.a", "").hardlink("h", ".wh.a")],
        "hard link to a whiteout",
    );
    cases.refused(
        "hardlink-to-what-a-whiteout-hides",
        || vec![t().file(".wh.a", "").hardlink("b", "a")],
        "not in this layer",
    );
}
