//! Archives on which readers disagree, and such as are none.

use super::{Cases, Layer};
use crate::tarball::{Entry, Tar, record};

fn t() -> Tar {
    Tar::new()
}

/// A member that must not be seen.
fn smuggled() -> Vec<u8> {
    t().file("smuggled", "x").open()
}

pub(super) fn add(cases: &mut Cases) {
    sizes(cases);
    extended(cases);
    sparse(cases);
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

/// GNU tar's own form: data of `parts` at their offsets in a file of `size` bytes.
fn old_sparse(parts: &[(u64, &str)], size: u64) -> Entry {
    let data: String = parts.iter().map(|(_, data)| *data).collect();
    let mut entry = Entry::file("s", data).kind(b'S');
    for (n, (offset, data)) in parts.iter().enumerate() {
        let map = format!("{offset:011o}\0{:011o}\0", data.len());
        entry = entry.raw(386 + 24 * n, map);
    }
    entry.raw(483, format!("{size:011o}\0"))
}

fn sparse(cases: &mut Cases) {
    let whole = "s=ab\\x00\\x00\\x00cd\\x00";
    cases.tree(
        "sparse-old",
        || vec![t().add(&old_sparse(&[(0, "ab"), (5, "cd")], 8)).file("z", "")],
        &[whole, "z="],
    );
    cases.tree(
        "sparse-old-of-holes-only",
        || vec![t().add(&old_sparse(&[], 4)).file("z", "")],
        &["s=\\x00\\x00\\x00\\x00", "z="],
    );
    cases.tree(
        "sparse-old-extended",
        || {
            let entry = old_sparse(&[(0, "ab")], 8).raw(482, [1]).size(4);
            let mut more = [0_u8; 512];
            more[..24].copy_from_slice(b"00000000005\x0000000000002\0");
            // The header's block, then the map's, then the data.
            let header = t().add(&entry).open()[..512].to_vec();
            vec![t().bytes(&header).bytes(&more).block(b"abcd").file("z", "")]
        },
        &[whole, "z="],
    );
    cases.refused(
        "sparse-old-extended-for-ever",
        || {
            let header = t().add(&old_sparse(&[(0, "ab")], 8).raw(482, [1])).open()[..512].to_vec();
            let mut more = [0_u8; 512];
            more[504] = 1;
            let blocks = more.repeat(4096);
            vec![t().bytes(&header).bytes(&blocks)]
        },
        "larger than the limit",
    );
    cases.refused(
        "sparse-old-overlapping",
        || vec![t().add(&old_sparse(&[(4, "ab"), (5, "cd")], 8))],
        "overlap",
    );
    cases.refused(
        "sparse-old-descending",
        || vec![t().add(&old_sparse(&[(5, "ab"), (0, "cd")], 8))],
        "overlap",
    );
    cases.refused(
        "sparse-old-past-its-end",
        || vec![t().add(&old_sparse(&[(7, "ab")], 8))],
        "past its file's end",
    );
    cases.refused(
        "sparse-old-with-less-data",
        || vec![t().add(&old_sparse(&[(0, "abcd")], 8).size(2))],
        "the archive holds 2",
    );
    cases.refused(
        "sparse-old-with-more-data",
        || vec![t().add(&Entry::file("s", smuggled()).kind(b'S').raw(483, b"00000000010\0"))],
        "the archive holds",
    );
    cases.refused(
        "sparse-old-of-63-bits",
        || {
            vec![t().add(&old_sparse(&[], 0).raw(
                483,
                [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ))]
        },
        "limit",
    );
    cases.refused(
        "sparse-old-in-posix-archive",
        || vec![t().add(&old_sparse(&[], 4).ustar(""))],
        "not GNU's",
    );
    cases.tree(
        "sparse-0-0",
        || {
            let entry = Entry::file("s", "abcd")
                .pax("GNU.sparse.size", "8")
                .pax("GNU.sparse.numblocks", "2")
                .pax("GNU.sparse.offset", "0")
                .pax("GNU.sparse.numbytes", "2")
                .pax("GNU.sparse.offset", "5")
                .pax("GNU.sparse.numbytes", "2");
            vec![t().add(&entry).file("z", "")]
        },
        &[whole, "z="],
    );
    cases.tree(
        "sparse-0-1",
        || {
            let entry = Entry::file("GNUSparseFile.1/s", "abcd")
                .pax("GNU.sparse.size", "8")
                .pax("GNU.sparse.numblocks", "2")
                .pax("GNU.sparse.map", "0,2,5,2")
                .pax("GNU.sparse.name", "s");
            vec![t().add(&entry).file("z", "")]
        },
        &[whole, "z="],
    );
    let form_1_0 = |map: &str, data: &str, size: &str| {
        let mut content = map.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        content.extend_from_slice(data.as_bytes());
        Entry::file("GNUSparseFile.1/s", content)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "s")
            .pax("GNU.sparse.realsize", size)
    };
    cases.tree(
        "sparse-1-0",
        move || vec![t().add(&form_1_0("2\n0\n2\n5\n2\n", "abcd", "8")).file("z", "")],
        &[whole, "z="],
    );
    cases.refused(
        "sparse-1-0-map-without-end",
        move || vec![t().add(&form_1_0(&"9".repeat(600), "", "8"))],
        "malformed sparse map",
    );
    cases.refused(
        "sparse-1-0-too-many",
        move || vec![t().add(&form_1_0("100001\n", "", "8"))],
        "more than 100000 segments",
    );
    cases.refused(
        "sparse-1-0-map-cut-off",
        move || vec![t().add(&form_1_0("5\n0\n2\n", "", "8"))],
        "malformed sparse map",
    );
    cases.refused(
        "sparse-1-0-name-leads-out",
        move || {
            vec![
                t().add(&form_1_0("0\n", "", "8").pax("x", "y")).add(
                    &Entry::file("GNUSparseFile.1/s", "")
                        .pax("GNU.sparse.name", "../evil")
                        .pax("GNU.sparse.map", "0,0")
                        .pax("GNU.sparse.size", "0"),
                ),
            ]
        },
        "\"..\"",
    );
    cases.refused(
        "sparse-two-maps",
        || {
            vec![
                t().add(
                    &Entry::file("s", "")
                        .pax("GNU.sparse.size", "1")
                        .pax("GNU.sparse.map", "0,0")
                        .pax("GNU.sparse.offset", "0")
                        .pax("GNU.sparse.numbytes", "0"),
                ),
            ]
        },
        "two sparse maps",
    );
    cases.refused(
        "sparse-unknown-form",
        || {
            vec![
                t().add(
                    &Entry::file("s", "")
                        .pax("GNU.sparse.major", "2")
                        .pax("GNU.sparse.minor", "0"),
                ),
            ]
        },
        "unknown form",
    );
    cases.refused(
        "sparse-without-size",
        || vec![t().add(&Entry::file("s", "").pax("GNU.sparse.map", "0,0"))],
        "without a size",
    );
    cases.refused(
        "sparse-directory",
        || {
            vec![
                t().add(
                    &Entry::dir("s")
                        .pax("GNU.sparse.map", "0,0")
                        .pax("GNU.sparse.size", "8"),
                ),
            ]
        },
        "sparse entry that is no file",
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
