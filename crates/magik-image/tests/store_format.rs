//! Stores that another version wrote.
//!
//! `tests/fixtures/store-v1.tar` is a store of version 1, as it was written before there was a file that says so: one image with
//! two layers, unpacked, and a lease on it. `cargo test -p magik-image --test store_format -- --ignored` writes one with what is current.
#![allow(clippy::print_stderr)]

mod store_support;

use std::{fs, path::Path};

use magik_cas::Durability;
use magik_image::{Error, ImageStore, PruneOptions, store::format::VERSION};
use store_support::{Tar, image};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const NAME: &str = "example.com/fixture:v1";
const LEASE: &str = "0123456789abcdef01234567";

fn unpack_fixture(dir: &Path) {
    let file = fs::File::open(Path::new(FIXTURES).join("store-v1.tar")).unwrap();
    tar::Archive::new(file).unpack(dir).unwrap();
}

#[test]
fn a_store_of_version_1_is_opened_and_all_of_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    unpack_fixture(dir.path());
    let store = ImageStore::open(dir.path())
        .unwrap()
        .with_durability(Durability::None);
    assert!(store.verify().unwrap().is_empty());
    let image = store.find(NAME).unwrap();
    assert_eq!(image.layers().len(), 2);
    assert_eq!(store.leases().unwrap(), [LEASE]);
    // Its layers are found, not unpacked again, and read as they were.
    let layers = dir.path().join("layers");
    let before = layers.metadata().unwrap().modified().unwrap();
    let trees = store.unpack_blocking(&image, LEASE).unwrap();
    assert_eq!(layers.metadata().unwrap().modified().unwrap(), before);
    assert_eq!(fs::read_to_string(trees[0].join("dir/upper")).unwrap(), "upper\n");
    assert_eq!(fs::read_to_string(trees[1].join("dir/lower")).unwrap(), "lower\n");
    // The lease holds the layers when the image has gone, and no longer.
    store.remove_images(&[image]).unwrap();
    assert!(trees.iter().all(|tree| tree.is_dir()));
    store.release(LEASE).unwrap();
    assert_eq!(store.prune(PruneOptions::default()).unwrap().layers, 2);
    // It is marked now.
    assert_eq!(
        fs::read_to_string(dir.path().join("format")).unwrap().trim(),
        VERSION.to_string()
    );
}

#[test]
fn a_store_of_a_later_version_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    unpack_fixture(dir.path());
    fs::write(dir.path().join("format"), "2\n").unwrap();
    let error = ImageStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::StoreVersion { found: 2, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("version 2") && text.contains("another data root") && !text.contains('\n'),
        "{text}"
    );
    fs::write(dir.path().join("format"), "none\n").unwrap();
    assert!(matches!(
        ImageStore::open(dir.path()),
        Err(Error::InvalidDocument { .. })
    ));
}

#[test]
#[ignore = "writes a fixture for the version that is current"]
fn write_a_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let lower = Tar::new().dir("dir").file("dir/lower", b"lower\n");
    let upper = Tar::new().dir("dir").file("dir/upper", b"upper\n");
    let image = image(&store, NAME, vec![lower, upper]);
    store.unpack_blocking(&image, LEASE).unwrap();
    fs::create_dir_all(FIXTURES).unwrap();
    if VERSION == 1 {
        // Those who wrote version 1 first did not say so.
        fs::remove_file(dir.path().join("format")).unwrap();
    }
    let file = fs::File::create(Path::new(FIXTURES).join(format!("store-v{VERSION}.tar"))).unwrap();
    let mut archive = tar::Builder::new(file);
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all(".", dir.path()).unwrap();
    archive.finish().unwrap();
}
