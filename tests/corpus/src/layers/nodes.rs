//! Owners, modes, times, attributes and nodes.

use super::Cases;
use crate::tarball::{Entry, Tar};

/// `cap_net_raw` as permitted and effective, version 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// The same with a newline in it: `cap_dac_override` and `cap_fowner`.
const CAPABILITY_NEWLINE: &[u8] = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn one(entry: Entry) -> impl Fn() -> Vec<Tar> {
    move || vec![Tar::new().add(&entry)]
}

pub(super) fn add(cases: &mut Cases) {
    owners(cases);
    attributes(cases);
    devices(cases);
}

fn owners(cases: &mut Cases) {
    let file = || Entry::file("f", "x");
    cases.tree(
        "setuid-and-owner",
        one(file().mode(0o4755).owner(7, 8)),
        &["f=x 4755 7:8"],
    );
    cases.tree(
        "setgid-and-sticky",
        one(file().mode(0o3777).owner(0, 50)),
        &["f=x 3777 0:50"],
    );
    cases.tree("mode-bits-beyond", one(file().mode(0o100_4711)), &["f=x 4711"]);
    cases.tree("mode-zero", one(file().mode(0)), &["f=x 0000"]);
    cases.tree(
        "uid-of-the-largest",
        one(file().owner(0xffff_fffe, 0xffff_fffe)),
        &["f=x 4294967294:4294967294"],
    );
    cases.refused(
        "uid-4294967295",
        one(file().owner(0xffff_ffff, 0)),
        "uid 4294967295 is out of range",
    );
    cases.refused(
        "gid-4294967295",
        one(file().owner(0, 0xffff_ffff)),
        "gid 4294967295 is out of range",
    );
    cases.refused("uid-4294967296", one(file().owner(1 << 32, 0)), "out of range");
    cases.refused("uid-negative", one(file().owner(-1, 0)), "negative");
    cases.refused(
        "uid-in-pax-out-of-range",
        one(file().pax("uid", "4294967295")),
        "out of range",
    );
    cases.refused(
        "uid-in-pax-no-number",
        one(file().pax("uid", "root")),
        "no number",
    );
    cases.tree(
        "uid-in-pax",
        one(file().owner(1, 1).pax("uid", "70000").pax("gid", "70001")),
        &["f=x 70000:70001"],
    );
    cases.tree("mtime-negative", one(file().mtime(-1)), &["f=x @-1"]);
    cases.tree(
        "mtime-of-1901",
        one(file().mtime(-0x8000_0000)),
        &["f=x @-2147483648"],
    );
    cases.tree(
        "mtime-beyond-2038",
        one(file().mtime(0x1_0000_0000)),
        &["f=x @4294967296"],
    );
    cases.tree(
        "mtime-with-nanoseconds",
        one(file().pax("mtime", "1600000000.25")),
        &["f=x @1600000000.250000000"],
    );
    cases.tree(
        "mtime-before-1970-with-nanoseconds",
        one(file().pax("mtime", "-1.25")),
        &["f=x @-2.750000000"],
    );
    cases.refused("mtime-no-time", one(file().pax("mtime", "yesterday")), "no time");
    cases.refused(
        "mtime-past-64-bits",
        one(file().pax("mtime", "99999999999999999999")),
        "no time",
    );
    cases.tree(
        "hardlink-does-not-change-its-target",
        || {
            vec![
                Tar::new()
                    .file("f", "x")
                    .add(&Entry::new(b'1', "h").to("f").mode(0o6777).owner(9, 9).mtime(1)),
            ]
        },
        &["f=x", "h&f"],
    );
    cases.tree(
        "symlink-owner-and-time",
        || {
            vec![
                Tar::new()
                    .file("f", "x")
                    .add(&Entry::new(b'2', "l").to("f").owner(9, 9).mtime(1).mode(0o4000)),
            ]
        },
        &["f=x", "l->f 9:9 @1"],
    );
}

fn attributes(cases: &mut Cases) {
    let file = || Entry::file("f", "x");
    cases.tree(
        "xattr-user",
        one(file().xattr("user.k", "v")),
        &["f=x [user.k=v]"],
    );
    cases.tree("xattr-capability", one(file().xattr("security.capability", CAPABILITY)), &[
        "f=x [security.capability=\\x01\\x00\\x00\\x02\\x00 \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00]",
    ]);
    cases.tree("xattr-capability-survives-the-owner", one(file().xattr("security.capability", CAPABILITY).owner(5, 5)), &[
        "f=x 5:5 [security.capability=\\x01\\x00\\x00\\x02\\x00 \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00]",
    ]);
    cases.tree("xattr-with-a-newline", one(file().xattr("security.capability", CAPABILITY_NEWLINE)), &[
        "f=x [security.capability=\\x01\\x00\\x00\\x02\\n\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00]",
    ]);
    cases.refused(
        "xattr-capability-malformed",
        one(file().xattr("security.capability", "x")),
        "extended attribute",
    );
    for (name, attribute) in [
        ("xattr-overlay-opaque", "trusted.overlay.opaque"),
        ("xattr-overlay-redirect", "trusted.overlay.redirect"),
        ("xattr-overlay-metacopy", "trusted.overlay.metacopy"),
        ("xattr-overlay-origin", "trusted.overlay.origin"),
        ("xattr-overlay-whiteout", "trusted.overlay.whiteout"),
        ("xattr-overlay-escaped", "trusted.overlay.overlay.opaque"),
        ("xattr-user-overlay-opaque", "user.overlay.opaque"),
        ("xattr-user-overlay-redirect", "user.overlay.redirect"),
        ("xattr-selinux", "security.selinux"),
        ("xattr-ima", "security.ima"),
        ("xattr-evm", "security.evm"),
        ("xattr-of-no-namespace", "nonsense"),
    ] {
        cases.tree(
            name,
            one(file().xattr(attribute, "y").xattr("user.k", "v")),
            &["f=x [user.k=v]"],
        );
    }
    cases.tree(
        "xattr-overlay-redirect-of-a-directory",
        || {
            vec![
                Tar::new().dir("secret").file("secret/f", "x").dir("d"),
                Tar::new().add(
                    &Entry::dir("d")
                        .xattr("trusted.overlay.redirect", "/secret")
                        .xattr("user.overlay.redirect", "/secret"),
                ),
            ]
        },
        &["d/", "secret/", "secret/f=x"],
    );
    cases.refused(
        "xattr-past-64-kib",
        one(file().xattr("user.k", "v".repeat(65537))),
        "extended attribute",
    );
    cases.tree(
        "xattr-name-with-nul",
        one(file().xattr("user.a\0b", "v")),
        &["f=x"],
    );
    cases.refused(
        "xattr-name-too-long",
        one(file().xattr(&format!("user.{}", "n".repeat(300)), "v")),
        "extended attribute",
    );
    cases.tree(
        "xattr-on-a-symlink-is-left-out",
        || vec![Tar::new().add(&Entry::new(b'2', "l").to("x").xattr("user.k", "v"))],
        &["l->x"],
    );
    cases.tree(
        "xattr-trusted-on-a-symlink",
        || vec![Tar::new().add(&Entry::new(b'2', "l").to("/etc/shadow").xattr("trusted.k", "v"))],
        &["l->/etc/shadow [trusted.k=v]"],
    );
}

fn devices(cases: &mut Cases) {
    let device = |kind, major, minor| one(Entry::new(kind, "d").mode(0o666).device(major, minor));
    cases.tree("device-null", device(b'3', 1, 3), &["d:c1,3 0666"]);
    cases.tree("device-block", device(b'4', 259, 70000), &["d:b259,70000 0666"]);
    cases.refused(
        "device-0-0-is-a-whiteout",
        || vec![Tar::new().file("d", "x"), Tar::new().add(&Entry::new(b'3', "d"))],
        "0:0",
    );
    cases.tree("device-block-0-0", device(b'4', 0, 0), &["d:b0,0 0666"]);
    cases.refused("device-major-out-of-range", device(b'3', 4096, 0), "out of range");
    cases.refused(
        "device-minor-out-of-range",
        device(b'3', 1, 1 << 20),
        "out of range",
    );
    cases.refused("device-negative", device(b'3', -1, 0), "negative");
    cases.tree("fifo", one(Entry::new(b'6', "p").mode(0o600)), &["p| 0600"]);
    cases.refused(
        "device-with-content",
        one(Entry::file("d", "x").kind(b'3').device(1, 3)),
        "it has content",
    );
    cases.refused(
        "device-as-parent",
        || {
            vec![
                Tar::new()
                    .add(&Entry::new(b'3', "d").device(1, 3))
                    .file("d/f", "x"),
            ]
        },
        "not a directory",
    );
    for (name, kind) in [
        ("type-v", b'V'),
        ("type-m", b'M'),
        ("type-d", b'D'),
        ("type-n", b'N'),
        ("type-high", 0xff),
        ("type-8", b'8'),
    ] {
        cases.refused(name, one(Entry::new(kind, "f")), "not supported");
    }
}
