//! How much a layer and an image may hold: at each limit, and one past it.
#![allow(missing_docs)]

mod store_support;

use std::{fs, path::PathBuf};

use magik_image::{Error, Image, ImageStore};
use store_support::{Tar, TestLayer, gzip, image, leftovers, limited, store, try_image};
use tar::EntryType;

fn unpack(store: &ImageStore, image: &Image) -> magik_image::Result<Vec<PathBuf>> {
    store.unpack_blocking(image, "test")
}

/// The only layer of an image of one.
fn unpack_one(store: &ImageStore, tar: Tar) -> magik_image::Result<PathBuf> {
    let image = image(store, "one", vec![tar]);
    Ok(unpack(store, &image)?.remove(0))
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
