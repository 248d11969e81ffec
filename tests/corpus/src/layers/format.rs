//! Archives on which readers disagree, and such as are none.

use super::{Cases, Layer};
use crate::tarball::{Entry, Tar, record};

pub(super) fn t() -> Tar {
    Tar::new()
}

/// A member that must not be seen.
pub(super) fn smuggled() -> Vec<u8> {
    t().file("smuggled", "x").open()
}

pub(super) fn add(cases: &mut Cases) {
    sizes(cases);
    extended(cases);
    ends(cases);
    headers(cases);
}

fn sizes(cases: &mut Cases) {
    cases.refused(
        "pax-size-larger-than-the-headers",
        || {
            vec![
                t().add(&Entry::file("f", "").size(0).pax("size", "1024"))
                    .bytes(&smuggled()),
            ]
        },
        "CVE-2025-62518",
    );
    cases.refused(
        "pax-size-smaller-than-the-headers",
        || vec![t().add(&Entry::file("f", smuggled()).pax("size", "0"))],
        "CVE-2025-62518",
    );
    cases.tree(
        "pax-size-that-agrees",
        || vec![t().add(&Entry::file("f", "abc").pax("size", "3")).file("g", "")],
        &["f=abc", "g="],
    );
    cases.refused(
        "pax-size-of-8-gib",
        || vec![t().add(&Entry::file("f", "").size(0).pax("size", "8589934592"))],
        "middle of an entry",
    );
    cases.refused(
        "pax-size-of-64-bits",
        || vec![t().add(&Entry::file("f", "").size(0).pax("size", "18446744073709551615"))],
        "middle of an entry",
    );
    cases.refused(
        "pax-size-no-number",
        || vec![t().add(&Entry::file("f", "").pax("size", "-1"))],
        "no number",
    );
    cases.refused(
        "size-negative",
        || vec![t().add(&Entry::file("f", "").size(-512))],
        "negative",
    );
    cases.refused(
        "size-of-63-bits",
        || vec![t().add(&Entry::file("f", "").size(i64::MAX))],
        "middle of an entry",
    );
    cases.refused(
        "size-past-63-bits",
        || {
            vec![t().add(&Entry::file("f", "").raw(
                124,
                [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ))]
        },
        "too large",
    );
    cases.refused(
        "size-no-number",
        || vec![t().add(&Entry::file("f", "").raw(124, b"12x45678901\0"))],
        "no number",
    );
    cases.refused(
        "symlink-with-content",
        || vec![t().add(&Entry::file("l", smuggled()).kind(b'2').to("x"))],
        "it has content",
    );
    cases.refused(
        "directory-with-content",
        || vec![t().add(&Entry::file("d", smuggled()).kind(b'5'))],
        "it has content",
    );
    cases.refused(
        "fifo-with-content",
        || vec![t().add(&Entry::file("p", smuggled()).kind(b'6'))],
        "it has content",
    );
    cases.tree(
        "size-in-binary",
        || vec![t().add(&Entry::file("f", "abc").raw(124, [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]))],
        &["f=abc"],
    );
    cases.tree(
        "size-with-blanks",
        || vec![t().add(&Entry::file("f", "abc").raw(124, b"          3 "))],
        &["f=abc"],
    );
}

fn extended(cases: &mut Cases) {
    let long = |n: usize| "n".repeat(n);
    cases.tree(
        "long-name-of-gnu",
        || vec![t().dir(&format!("{}/", "d".repeat(150)))],
        &["dddddddddddddddd..150:99e1a07a/"],
    );
    cases.tree(
        "long-link-of-gnu",
        move || vec![t().symlink("l", &long(200))],
        &["l->nnnnnnnnnnnnnnnn..200:1be63cc0"],
    );
    cases.tree(
        "pax-path-and-linkpath",
        || {
            vec![
                t().file("a", "x").add(
                    &Entry::new(b'1', "short")
                        .to("other")
                        .pax("path", "h")
                        .pax("linkpath", "a"),
                ),
            ]
        },
        &["a=x", "h&a"],
    );
    cases.tree(
        "pax-path-with-a-newline",
        || vec![t().add(&Entry::file("f", "x").pax("path", "a\n20 path=evil"))],
        &["a\\n20 path=evil=x"],
    );
    cases.refused(
        "two-long-names",
        || vec![t().extended(b'L', b"a\0").extended(b'L', b"b\0").file("f", "x")],
        "two long names",
    );
    cases.refused(
        "two-long-links",
        || {
            vec![
                t().extended(b'K', b"a\0")
                    .extended(b'K', b"b\0")
                    .symlink("f", "x"),
            ]
        },
        "two long link names",
    );
    cases.refused(
        "two-pax-headers",
        || {
            vec![
                t().extended(b'x', &record(b"path", b"a"))
                    .extended(b'x', &record(b"path", b"b"))
                    .file("f", "x"),
            ]
        },
        "two pax headers",
    );
    cases.refused(
        "pax-record-twice",
        || vec![t().add(&Entry::file("f", "x").pax("path", "a").pax("path", "b"))],
        "two pax records",
    );
    cases.refused(
        "pax-path-and-long-name",
        || {
            vec![
                t().extended(b'L', b"a\0")
                    .extended(b'x', &record(b"path", b"b"))
                    .file("f", "x"),
            ]
        },
        "both a long name",
    );
    cases.tree(
        "pax-empty-value-means-none",
        || vec![t().add(&Entry::file("f", "x").pax("path", ""))],
        &["f=x"],
    );
    cases.tree(
        "pax-unknown-records",
        || vec![t().add(&Entry::file("f", "x").pax("comment", "c").pax("VENDOR.key", "v"))],
        &["f=x"],
    );
    for (name, bytes) in [
        ("pax-record-length-too-long", &b"99 path=a\n"[..]),
        ("pax-record-length-too-short", b"5 path=a\n"),
        ("pax-record-length-zero", b"0 path=a\n"),
        ("pax-record-length-negative", b"-9 path=a\n"),
        ("pax-record-length-huge", b"18446744073709551615 path=a\n"),
        ("pax-record-without-newline", b"8 path=a"),
        ("pax-record-without-equals", b"7 path\n"),
        ("pax-record-without-key", b"5 =a\n"),
        ("pax-record-of-zeros", &[0; 20]),
    ] {
        cases.refused(
            name,
            move || vec![t().extended(b'x', bytes).file("f", "x")],
            "malformed pax record",
        );
    }
    cases.refused(
        "pax-of-64-mib",
        || {
            let value = vec![b'x'; 64 << 20];
            vec![t().extended(b'x', &record(b"comment", &value)).file("f", "x")]
        },
        "extended header is larger",
    );
    cases.refused(
        "pax-that-says-8-gib",
        || vec![t().add(&Entry::new(b'x', "pax").size(1 << 33)).file("f", "x")],
        "extended header is larger",
    );
    cases.refused(
        "long-name-of-2-mib",
        || vec![t().extended(b'L', &vec![b'a'; 2 << 20]).file("f", "x")],
        "extended header is larger",
    );
    cases.refused(
        "extended-header-at-the-end",
        || vec![t().file("f", "x").extended(b'x', &record(b"path", b"a"))],
        "of no entry",
    );
    cases.refused(
        "extended-header-cut-off",
        || {
            vec![Layer::plain(
                t().extended(b'x', &record(b"path", &[b'a'; 2000])).open()[..1024].to_vec(),
            )]
        },
        "middle of an extended header",
    );
    cases.tree(
        "global-header-with-a-comment",
        || vec![t().extended(b'g', &record(b"comment", b"git")).file("f", "x")],
        &["f=x"],
    );
    cases.tree(
        "global-header-of-times-is-ignored",
        || vec![t().extended(b'g', &record(b"mtime", b"1")).file("f", "x")],
        &["f=x"],
    );
    cases.refused(
        "global-header-with-a-path",
        || vec![t().extended(b'g', &record(b"path", b"evil")).file("f", "x")],
        "a global pax record",
    );
    cases.refused(
        "global-header-with-a-size",
        || vec![t().extended(b'g', &record(b"size", b"0")).file("f", "x")],
        "a global pax record",
    );
    cases.refused(
        "global-header-with-a-sparse-map",
        || {
            vec![
                t().extended(b'g', &record(b"GNU.sparse.map", b"0,1"))
                    .file("f", "x"),
            ]
        },
        "a global pax record",
    );
    cases.refused(
        "solaris-extended-header",
        || vec![t().extended(b'X', &record(b"path", b"a")).file("f", "x")],
        "not supported",
    );
}

fn ends(cases: &mut Cases) {
    cases.tree(
        "end-without-zero-blocks",
        || vec![Layer::plain(t().file("f", "x").open())],
        &["f=x"],
    );
    cases.tree(
        "end-with-one-zero-block",
        || vec![Layer::plain(t().file("f", "x").bytes(&[0; 512]).open())],
        &["f=x"],
    );
    cases.tree(
        "end-with-many-zero-blocks",
        || vec![t().file("f", "x").bytes(&[0; 20480])],
        &["f=x"],
    );
    cases.tree(
        "nothing-at-all",
        || vec![Layer::plain(Vec::new()), Layer::plain(t().file("f", "x").done())],
        &["f=x"],
    );
    cases.refused(
        "lone-zero-block-in-the-middle",
        || vec![t().file("f", "x").bytes(&[0; 512]).bytes(&smuggled())],
        "single zero block",
    );
    cases.tree(
        "concatenated-archives",
        || {
            let mut both = t().file("f", "x").done();
            both.extend(t().file("second", "y").done());
            vec![Layer::plain(both)]
        },
        &["f=x"],
    );
    cases.tree(
        "garbage-after-the-end",
        || {
            vec![
                t().file("f", "x")
                    .bytes(&[0; 1024])
                    .bytes(b"garbage that is hashed all the same"),
            ]
        },
        &["f=x"],
    );
    cases.refused(
        "garbage-before-the-end",
        || vec![t().file("f", "x").block(b"garbage")],
        "checksum",
    );
    cases.refused(
        "cut-off-in-a-header",
        || {
            vec![Layer::plain(
                t().file("f", "x").file("g", "y").open()[..1300].to_vec(),
            )]
        },
        "middle of a block",
    );
    cases.refused(
        "cut-off-in-content",
        || {
            vec![Layer::plain(
                t().file("f", &"x".repeat(5000)).open()[..2000].to_vec(),
            )]
        },
        "middle of an entry",
    );
    cases.refused(
        "cut-off-in-padding",
        || vec![Layer::plain(t().file("f", "x").open()[..700].to_vec())],
        "middle of an entry",
    );
    cases.refused(
        "diff-id-of-something-else",
        || {
            let mut layer = Layer::from(t().file("f", "x"));
            layer.diff_id = Layer::from(t().file("f", "y")).diff_id;
            vec![layer]
        },
        "the image's configuration says",
    );
    cases.refused(
        "bytes-after-the-end-count-for-the-diff-id",
        || {
            let plain = t().file("f", "x").done();
            let longer = [&plain[..], b"hidden"].concat();
            vec![Layer {
                blob: longer,
                ..Layer::plain(plain)
            }]
        },
        "the image's configuration says",
    );
}

fn headers(cases: &mut Cases) {
    cases.refused(
        "no-archive-at-all",
        || vec![Layer::plain(b"no archive at all ".repeat(100))],
        "not a tar archive",
    );
    cases.refused(
        "checksum-wrong",
        || {
            let mut bytes = t().file("f", "x").done();
            bytes[0] = b'g';
            vec![Layer::plain(bytes)]
        },
        "wrong checksum",
    );
    cases.tree(
        "checksum-of-signed-characters",
        || {
            let mut bytes = t().add(&Entry::file(b"\xe9", "x")).done();
            // 0xe9 counted as -23 instead of 233.
            let field: String = bytes[148..154].iter().map(|b| char::from(*b)).collect();
            let sum = u32::from_str_radix(&field, 8).unwrap_or_default() - 256;
            bytes[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
            vec![Layer::plain(bytes)]
        },
        &["\\xe9=x"],
    );
    cases.tree(
        "version-7-without-magic",
        || vec![t().add(&Entry::file("f", "x").raw(257, [0; 8]))],
        &["f=x"],
    );
    cases.tree(
        "ustar-with-prefix",
        || vec![t().add(&Entry::file("f", "x").ustar("a/b"))],
        &["a/ @0", "a/b/ @0", "a/b/f=x"],
    );
    cases.tree(
        "star-with-times-behind-the-prefix",
        || {
            vec![
                t().add(
                    &Entry::file("f", "x")
                        .ustar("a")
                        .raw(476, b"00000000001\x0000000000001\0")
                        .raw(508, b"tar\0"),
                ),
            ]
        },
        &["a/ @0", "a/f=x"],
    );
    cases.tree(
        "gnu-with-times-where-the-prefix-would-be",
        || vec![t().add(&Entry::file("f", "x").raw(345, b"14500000000\x0014500000000\0"))],
        &["f=x"],
    );
    cases.tree("names-that-fill-their-fields", || vec![t().add(&Entry::file("n".repeat(100), "x")).add(&Entry::new(b'2', "l").to("t".repeat(100)))], &["l->tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn=x"]);
    cases.tree(
        "contiguous-file",
        || vec![t().add(&Entry::file("f", "x").kind(b'7'))],
        &["f=x"],
    );
    cases.tree(
        "type-of-old-archives",
        || vec![t().add(&Entry::file("f", "x").kind(0))],
        &["f=x"],
    );
}
