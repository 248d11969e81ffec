//! Sparse files, in every form there is.

use super::{
    Cases,
    format::{smuggled, t},
};
use crate::tarball::Entry;

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

pub(super) fn add(cases: &mut Cases) {
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
