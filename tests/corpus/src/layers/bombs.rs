//! What is much larger than it looks, and compression that is wrong.

use std::io::Write;

use super::{Cases, Layer};
use crate::{
    Bounds,
    tarball::{Entry, Tar, gzip, zstd},
};

fn t() -> Tar {
    Tar::new()
}

/// A digest that no case gets as far as comparing.
fn unknown(blob: Vec<u8>) -> Layer {
    Layer::new(blob, b"")
}

/// Writes an archive with a file of `size` zeros, a multiple of a mebibyte.
fn zeros(size: u64, mut write: impl FnMut(&[u8])) {
    let size_field = i64::try_from(size).unwrap_or(i64::MAX);
    write(&t().add(&Entry::file("zeros", "").size(size_field)).open());
    let piece = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        write(&piece);
    }
}

pub(super) fn add(cases: &mut Cases, bounds: Bounds) {
    bombs(cases, bounds.layer_size);
    many(cases, bounds);
    replaced(cases);
    compression(cases);
}

fn bombs(cases: &mut Cases, limit: u64) {
    cases.refused(
        "bomb-gzip",
        move || {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            zeros(2 * limit, |bytes| drop(encoder.write_all(bytes)));
            vec![unknown(encoder.finish().unwrap_or_default())]
        },
        "limit",
    );
    cases.refused(
        "bomb-zstd",
        move || {
            let mut blob = Vec::new();
            if let Ok(mut encoder) = zstd::Encoder::new(&mut blob, 1) {
                zeros(2 * limit, |bytes| drop(encoder.write_all(bytes)));
                drop(encoder.finish());
            }
            vec![unknown(blob)]
        },
        "limit",
    );
    cases.refused(
        "bomb-of-many-gzip-members",
        move || {
            let start = gzip(&t().add(&Entry::file("zeros", "").size(1 << 40)).open());
            let member = gzip(&vec![0; 4 << 20]);
            let members = usize::try_from(limit / (4 << 20)).unwrap_or(0) + 1;
            vec![unknown([start, member.repeat(members)].concat())]
        },
        "limit",
    );
    cases.refused(
        "bomb-behind-the-end",
        move || {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            drop(encoder.write_all(&t().file("f", "x").done()));
            let piece = vec![0; 1 << 20];
            for _ in 0..=limit >> 20 {
                drop(encoder.write_all(&piece));
            }
            vec![unknown(encoder.finish().unwrap_or_default())]
        },
        "limit",
    );
    cases.refused(
        "bomb-sparse",
        move || {
            let size = format!("{:011o}\0", limit + 1);
            vec![t().add(&Entry::new(b'S', "s").raw(483, size))]
        },
        "limit",
    );
    cases.refused(
        "bomb-of-two-sparse-files",
        move || {
            let size = format!("{:011o}\0", limit / 2 + 1);
            let file = |name| Entry::new(b'S', name).raw(483, &size);
            vec![t().add(&file("a")).add(&file("b"))]
        },
        "limit",
    );
    cases.refused(
        "gzip-in-gzip-is-no-archive",
        || {
            let inner = gzip(&t().file("f", "x").done());
            vec![Layer::new(gzip(&inner), &inner)]
        },
        "middle of a block",
    );
    cases.refused(
        "zstd-window-of-512-mib",
        || vec![unknown(window(29))],
        "layer sha256",
    );
    cases.refused(
        "zstd-window-of-2-gib",
        || vec![unknown(window(31))],
        "layer sha256",
    );
}

/// A zstd frame (RFC 8878) that asks for a window of 2^`log` bytes.
fn window(log: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3];
    // One last raw block of a kilobyte of zeros.
    frame.extend_from_slice(&[0x01, 0x20, 0x00]);
    frame.extend_from_slice(&[0; 1024]);
    frame
}

fn many(cases: &mut Cases, bounds: Bounds) {
    let Bounds { files, names, .. } = bounds;
    let numbered =
        |count: usize, add: fn(Tar, usize) -> Tar| move || vec![(0..count).fold(t().file("f", "x"), add)];
    cases.refused(
        "too-many-hardlinks",
        numbered(files, |tar, n| tar.hardlink(&format!("h{n}"), "f")),
        "files: more than",
    );
    cases.refused(
        "too-many-files",
        numbered(files, |tar, n| tar.file(&format!("{n}"), "")),
        "files: more than",
    );
    cases.refused(
        "too-many-implied-directories",
        numbered(files / 2 + 1, |tar, n| tar.file(&format!("d{n}/f"), "")),
        "files: more than",
    );
    cases.refused(
        "too-many-whiteouts",
        numbered(files, |tar, n| tar.file(&format!(".wh.{n}"), "")),
        "files: more than",
    );
    cases.refused(
        "names-that-fill-the-memory",
        move || {
            let deep = format!("{}/", "d".repeat(200)).repeat(19);
            let add = |tar: Tar, n: usize| tar.file(&format!("{deep}{n}"), "");
            vec![(0..names / deep.len() + 1).fold(t(), add)]
        },
        "names and directories' attributes",
    );
    cases.refused(
        "attributes-that-fill-the-memory",
        move || {
            let value = "v".repeat(65_536);
            let add = |tar: Tar, n: usize| tar.add(&Entry::dir(format!("d{n}")).xattr("user.a", &value));
            vec![(0..names / value.len() + 1).fold(t(), add)]
        },
        "names and directories' attributes",
    );
}

fn replaced(cases: &mut Cases) {
    cases.tree(
        "replaced-1000-times",
        || {
            let add = |tar: Tar, n: usize| tar.dir("a").file("a", "").file(&format!("b{}", n % 3), "");
            vec![(0..500).fold(t(), add)]
        },
        &["a=", "b0=", "b1=", "b2="],
    );
    cases.tree(
        "whiteouts-1000-times",
        || {
            let add = |tar: Tar, _: usize| tar.file(".wh.a", "").file("a", "").file("d/.wh..wh..opq", "");
            vec![
                t().dir("d").file("d/x", "").file("a", "old"),
                (0..500).fold(t(), add),
            ]
        },
        &["a=", "d/"],
    );
    cases.tree(
        "a-directory-1500-deep",
        || {
            vec![
                t().file(&format!("{}f", "d/".repeat(1500)), "x"),
                t().file(".wh.d", "").file("g", "y"),
            ]
        },
        &["g=y"],
    );
}

fn compression(cases: &mut Cases) {
    let plain = || t().file("f", "x").done();
    cases.tree("plain", move || vec![Layer::plain(plain())], &["f=x"]);
    cases.tree(
        "zstd",
        move || vec![Layer::new(zstd(&plain()), &plain())],
        &["f=x"],
    );
    cases.tree(
        "gzip-of-two-members",
        move || {
            let plain = plain();
            vec![Layer::new(
                [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
                &plain,
            )]
        },
        &["f=x"],
    );
    cases.tree(
        "gzip-with-an-empty-member",
        move || {
            let plain = plain();
            vec![Layer::new([gzip(b""), gzip(&plain), gzip(b"")].concat(), &plain)]
        },
        &["f=x"],
    );
    cases.tree(
        "zstd-of-two-frames-and-one-to-skip",
        move || {
            let plain = plain();
            let skipped = b"\x51\x2a\x4d\x18\x03\0\0\0abc";
            vec![Layer::new(
                [&skipped[..], &zstd(&plain[..700]), skipped, &zstd(&plain[700..])].concat(),
                &plain,
            )]
        },
        &["f=x"],
    );
    cases.refused(
        "gzip-cut-off",
        move || {
            let blob = gzip(&plain());
            vec![Layer::new(blob[..blob.len() - 1].to_vec(), &plain())]
        },
        "layer sha256",
    );
    cases.refused(
        "gzip-with-a-wrong-checksum",
        move || {
            let mut blob = gzip(&plain());
            let at = blob.len() - 8;
            blob[at] ^= 1;
            vec![Layer::new(blob, &plain())]
        },
        "layer sha256",
    );
    cases.refused(
        "gzip-with-garbage-after-it",
        move || {
            vec![Layer::new(
                [gzip(&plain()), b"garbage".to_vec()].concat(),
                &plain(),
            )]
        },
        "layer sha256",
    );
    cases.refused(
        "gzip-with-zeros-after-it",
        move || vec![Layer::new([gzip(&plain()), vec![0; 100]].concat(), &plain())],
        "layer sha256",
    );
    cases.refused(
        "gzip-of-nothing",
        move || vec![Layer::new(vec![0x1f, 0x8b, 8], &plain())],
        "layer sha256",
    );
    cases.refused(
        "zstd-cut-off",
        move || {
            let blob = zstd(&plain());
            vec![Layer::new(blob[..blob.len() - 1].to_vec(), &plain())]
        },
        "layer sha256",
    );
    cases.refused(
        "zstd-with-garbage-after-it",
        move || {
            vec![Layer::new(
                [zstd(&plain()), b"garbage".to_vec()].concat(),
                &plain(),
            )]
        },
        "layer sha256",
    );
    cases.refused(
        "xz-is-not-supported",
        || vec![unknown(b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46".repeat(60))],
        "not a tar archive",
    );
    cases.refused(
        "bzip2-is-not-supported",
        || vec![unknown(b"BZh91AY&SY".repeat(60))],
        "not a tar archive",
    );
}
