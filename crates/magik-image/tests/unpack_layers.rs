//! Unpacked layers: verified, shared, leased.
#![allow(missing_docs)]

mod store_support;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use magik_image::{Error, Image, ImageStore, PruneOptions};
use store_support::{Tar, TestLayer, gzip, image, leftovers, store, try_image};

fn unpack(store: &ImageStore, image: &Image) -> magik_image::Result<Vec<PathBuf>> {
    store.unpack_blocking(image, "test")
}

#[test]
fn a_layer_that_is_not_what_its_config_says_is_refused_and_leaves_nothing() {
    let (_dir, store) = store();
    let plain = Tar::new().file("a", b"a").done();
    let other = Tar::new().file("a", b"b").done();
    let image = try_image(
        &store,
        "liar",
        vec![TestLayer {
            blob: gzip(&other),
            plain,
        }],
    )
    .unwrap();
    assert!(matches!(
        unpack(&store, &image),
        Err(Error::DiffIdMismatch { .. })
    ));
    assert!(leftovers(&store).is_empty());
    for blob in [
        b"no archive at all".repeat(100),
        gzip(&[1; 2000]),
        vec![0x1f, 0x8b, 8, 0],
    ] {
        let plain = vec![];
        let image = try_image(&store, "nonsense", vec![TestLayer { blob, plain }]).unwrap();
        let result = unpack(&store, &image);
        assert!(matches!(result, Err(Error::InvalidLayer { .. })), "{result:?}");
        assert!(leftovers(&store).is_empty());
    }
}

#[test]
fn bytes_after_the_archives_end_count_for_the_diff_id() {
    let (_dir, store) = store();
    let mut plain = Tar::new().file("a", b"a").done();
    plain.extend(vec![0; 10_240]);
    let image = try_image(
        &store,
        "padded",
        vec![TestLayer {
            blob: gzip(&plain),
            plain: plain.clone(),
        }],
    )
    .unwrap();
    unpack(&store, &image).unwrap();
    plain.extend(b"hidden");
    let shorter = plain[..plain.len() - 6].to_vec();
    let image = try_image(
        &store,
        "smuggled",
        vec![TestLayer {
            blob: gzip(&plain),
            plain: Tar::new().done(),
        }],
    )
    .unwrap();
    assert!(matches!(
        unpack(&store, &image),
        Err(Error::DiffIdMismatch { .. })
    ));
    drop(shorter);
}

#[test]
fn a_damaged_blob_is_called_that() {
    let (_dir, store) = store();
    let plain = Tar::new().file("a", &[5; 5000]).done();
    let image = try_image(
        &store,
        "damaged",
        vec![TestLayer {
            blob: gzip(&plain),
            plain,
        }],
    )
    .unwrap();
    let path = store.cas().path(&image.layers()[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let result = unpack(&store, &image);
    assert!(
        matches!(result, Err(Error::Cas(magik_cas::Error::Damaged { .. }))),
        "{result:?}"
    );
}

#[test]
fn layers_are_unpacked_once_and_shared_by_chain_id() {
    let (_dir, store) = store();
    let base = || Tar::new().file("base", b"");
    let first = image(&store, "first", vec![base(), Tar::new().file("x", b"")]);
    let second = image(&store, "second", vec![base(), Tar::new().file("y", b"")]);
    let first = unpack(&store, &first).unwrap();
    let second = unpack(&store, &second).unwrap();
    assert_eq!(first[1], second[1]);
    assert_ne!(first[0], second[0]);
    // The same layer on top of another one is another chain.
    let third = image(&store, "third", vec![Tar::new().file("z", b""), base()]);
    assert_ne!(unpack(&store, &third).unwrap()[0], first[1]);
}

#[test]
fn a_lease_keeps_layers_until_it_is_released() {
    let (_dir, store) = store();
    let image = image(&store, "leased", vec![Tar::new().file("a", b"12345")]);
    let trees = store.unpack_blocking(&image, "pod-1").unwrap();
    store.unpack_blocking(&image, "pod-1").unwrap();
    store.unpack_blocking(&image, "pod-2").unwrap();
    assert_eq!(store.leases().unwrap(), ["pod-1", "pod-2"]);
    store.remove_image(&image).unwrap();
    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.blobs, report.layers), (3, 0));
    assert!(trees[0].join("a").exists());
    store.release("pod-1").unwrap();
    store.release("pod-1").unwrap();
    assert_eq!(store.prune(PruneOptions::default()).unwrap().layers, 0);
    store.release("pod-2").unwrap();
    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.layers, report.bytes), (1, 5));
    assert!(!trees[0].exists());
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    for name in ["", ".", "..", "a/b", ".lock", "a\0", "-x", &"x".repeat(201)] {
        assert!(
            matches!(store.release(name), Err(Error::InvalidLease(_))),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn callers_in_one_process_share_the_work() {
    let (_dir, store) = store();
    let layers = (0..6)
        .map(|i| Tar::new().file(&format!("d{i}/f"), &[i; 50_000]))
        .collect();
    let image = image(&store, "shared", layers);
    let calls = (0..4).map(|i| {
        let (store, image) = (store.clone(), image.clone());
        tokio::spawn(async move { store.unpack(&image, &format!("lease-{i}")).await })
    });
    let mut results = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        results.push(call.await.unwrap().unwrap());
    }
    assert!(
        results
            .iter()
            .all(|r| *r == results[0] && r.iter().all(|tree| tree.is_dir()))
    );
    assert!(leftovers(&store).is_empty());
}

#[test]
fn the_data_root_is_private() {
    let (_dir, store) = store();
    assert_eq!(
        fs::metadata(store.root()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
