//! What is there without a feature, and how what is not there says so.
#![cfg(not(all(feature = "registry", feature = "wasm", feature = "zstd")))]

mod store_support;

use magik_image::{Error, ImageStore, layout, pull::PullOptions};
use store_support::{Tar, TestLayer, gzip, store, try_image};

fn feature_of(error: Error) -> &'static str {
    match error {
        Error::MissingFeature { feature, .. } => feature,
        other => panic!("{other}"),
    }
}

#[cfg(not(feature = "registry"))]
#[tokio::test]
async fn what_is_in_the_store_is_found_without_a_registry() {
    let (_dir, store) = store();
    let pull = async |name: &str| {
        let source = name.parse().unwrap();
        store.pull(&source, &PullOptions::default(), &()).await
    };
    assert_eq!(feature_of(pull("example.com/a:1").await.unwrap_err()), "registry");
    store_support::image(&store, "example.com/a:1", vec![Tar::new().file("f", b"x")]);
    assert_eq!(pull("example.com/a:1").await.unwrap().name(), "example.com/a:1");
}

#[tokio::test]
async fn a_layout_needs_no_feature() {
    let (dir, store) = store();
    let plain = Tar::new().dir("d").file("d/f", b"text").done();
    let layer = TestLayer {
        blob: gzip(&plain),
        plain,
    };
    let image = try_image(&store, "example.com/a:1", vec![layer]).unwrap();
    let path = dir.path().join("layout.tar");
    layout::save(&store, &image, &path, layout::SaveFormat::OciArchive).unwrap();

    let other = ImageStore::open(&dir.path().join("other")).unwrap();
    let source = format!("oci-archive:{}", path.display()).parse().unwrap();
    let image = other.pull(&source, &PullOptions::default(), &()).await.unwrap();
    let flat = dir.path().join("flat");
    other.unpack_flat(&image, &flat).unwrap();
    assert_eq!(std::fs::read(flat.join("d/f")).unwrap(), b"text");
}

#[cfg(not(feature = "zstd"))]
#[test]
fn a_layer_says_that_it_would_need_zstd() {
    let (_dir, store) = store();
    let layer = TestLayer {
        blob: b"\x28\xb5\x2f\xfd and so on".to_vec(),
        plain: Tar::new().file("f", b"x").done(),
    };
    let image = try_image(&store, "example.com/a:1", vec![layer]).unwrap();
    let error = store.unpack_blocking(&image, "lease").unwrap_err();
    let layer = image.layers()[0].digest.to_string();
    assert!(error.to_string().contains(&layer), "{error}");
    assert_eq!(feature_of(error), "zstd");
}

#[cfg(not(feature = "wasm"))]
#[test]
fn a_module_that_is_a_text_says_that_it_would_need_wasm() {
    let (dir, store) = store();
    let text = dir.path().join("m.wat");
    std::fs::write(&text, "(module)").unwrap();
    let error = magik_image::wasm::load(&store, &text, None).unwrap_err();
    assert_eq!(feature_of(error), "wasm");
}
