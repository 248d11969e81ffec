//! Names, ids, leases' counterpart: what a store knows, forgets and finds damaged.
#![allow(missing_docs, clippy::print_stderr)]

mod store_support;

use std::fs;

use magik_image::{Damage, Error, Image, ImageStore, PruneOptions, Reference};
use store_support::{MANIFEST, Tar, descriptor, documents, image, leftovers, put, store};

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn sample(store: &ImageStore, name: &str) -> Image {
    image(store, name, vec![Tar::new().file("name", name.as_bytes())])
}

#[test]
fn an_image_is_found_by_every_form_of_its_name_and_by_its_id() {
    let (_dir, store) = store();
    let nginx = sample(&store, "nginx");
    sample(&store, "localhost:5000/a/b:v1");
    let by = |text: &str| store.find(text).map(|i| i.config_digest);
    let id = nginx.config_digest;
    for text in [
        "nginx",
        "nginx:latest",
        "docker.io/library/nginx",
        &id.to_string(),
        &id.hex(),
        &id.hex()[..12],
        &nginx.manifest_digest.to_string(),
    ] {
        assert_eq!(by(text).unwrap(), id, "{text}");
    }
    for text in [
        "nginx:other",
        "localhost:5000/a/b",
        "sha256:",
        &id.hex()[..3],
        "UPPER CASE",
        "0000000000",
    ] {
        assert!(matches!(by(text), Err(Error::NotFound(_))), "{text}");
    }
    assert_eq!(
        store.get(&reference("nginx")).unwrap().unwrap().name(),
        "docker.io/library/nginx:latest"
    );
    assert!(store.get(&reference("redis")).unwrap().is_none());
    let names: Vec<_> = store.list().unwrap().iter().map(Image::name).collect();
    assert_eq!(names, ["docker.io/library/nginx:latest", "localhost:5000/a/b:v1"]);
}

#[test]
fn an_image_knows_its_size_layers_and_chain_ids() {
    let (_dir, store) = store();
    let image = image(
        &store,
        "sizes",
        vec![Tar::new().file("a", b""), Tar::new().file("b", b"")],
    );
    let blobs = store.cas().list().unwrap();
    assert_eq!(image.size(), blobs.iter().map(|b| b.size).sum::<u64>());
    let [lower, upper] = image.layers() else { panic!() };
    assert_eq!(lower.chain_id, lower.diff_id);
    let chain = magik_cas::Digest::sha256(format!("{} {}", lower.diff_id, upper.diff_id).as_bytes());
    assert_eq!(upper.chain_id, chain);
}

#[test]
fn tagging_moves_a_name_and_removing_forgets_it() {
    let (_dir, store) = store();
    let old = sample(&store, "app");
    let new = image(&store, "app", vec![Tar::new().file("new", b"")]);
    assert_ne!(old.config_digest, new.config_digest);
    assert_eq!(
        store.get(&reference("app")).unwrap().unwrap().config_digest,
        new.config_digest
    );
    store.tag(&reference("alias:v2"), new.descriptor()).unwrap();
    store.remove(&reference("app")).unwrap();
    assert!(matches!(store.remove(&reference("app")), Err(Error::NotFound(_))));
    assert_eq!(store.find("alias:v2").unwrap().config_digest, new.config_digest);
    // One image of two names is not ambiguous.
    store.tag(&reference("alias:v3"), new.descriptor()).unwrap();
    assert!(store.find(&new.config_digest.hex()[..8]).is_ok());
    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!(report.blobs, 3, "the old image's manifest, config and layer");
}

#[test]
fn an_image_without_a_name_is_kept_and_removed_by_its_id() {
    let (_dir, store) = store();
    let named = sample(&store, "app");
    store.remove(&reference("app")).unwrap();
    let kept = store.keep(named.descriptor()).unwrap();
    assert_eq!(kept.reference, None);
    assert_eq!(store.prune(PruneOptions::default()).unwrap().blobs, 0);
    store
        .remove_image(&store.find(&kept.config_digest.hex()[..12]).unwrap())
        .unwrap();
    assert_eq!(store.prune(PruneOptions::default()).unwrap().blobs, 3);
}

#[test]
fn only_a_complete_image_gets_a_name() {
    let (_dir, store) = store();
    let layers = [Tar::new().file("a", b"").into()];
    let (config, manifest) = documents(&layers);
    let tag = || store.tag(&reference("app"), &descriptor(MANIFEST, &manifest));
    let missing =
        |result: magik_image::Result<Image>| matches!(result, Err(Error::Cas(magik_cas::Error::NotFound(_))));
    assert!(missing(tag()));
    put(&store, &manifest);
    assert!(missing(tag()));
    put(&store, &config);
    assert!(missing(tag()));
    assert!(store.list().unwrap().is_empty());
    put(&store, &layers[0].blob);
    tag().unwrap();
    assert!(leftovers(&store).is_empty());
}

#[test]
fn layers_and_diff_ids_must_be_as_many() {
    let (_dir, store) = store();
    let two = [Tar::new().file("a", b"").into(), Tar::new().file("b", b"").into()];
    let (config, _) = documents(&two);
    let (_, manifest) = documents(&two[..1]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["config"] =
        serde_json::to_value(descriptor("application/vnd.oci.image.config.v1+json", &config)).unwrap();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    for blob in [&two[0].blob, &two[1].blob, &config, &manifest] {
        put(&store, blob);
    }
    let error = store
        .tag(&reference("app"), &descriptor(MANIFEST, &manifest))
        .unwrap_err();
    assert!(error.to_string().contains("diff_ids"), "{error}");
}

#[test]
fn an_image_that_lost_a_blob_is_absent_until_it_is_pulled_again() {
    let (_dir, store) = store();
    let image = sample(&store, "app");
    let layer = image.layers()[0].digest;
    let bytes = store.cas().read(&layer, u64::MAX).unwrap();
    store.cas().remove(&layer).unwrap();
    assert!(store.get(&reference("app")).unwrap().is_none());
    assert!(store.list().unwrap().is_empty());
    let damage = store.verify().unwrap();
    assert!(
        matches!(&damage[..], [Damage::Missing { digest, .. }] if *digest == layer),
        "{damage:?}"
    );
    put(&store, &bytes);
    assert!(store.get(&reference("app")).unwrap().is_some());
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn verify_finds_damage_and_its_repair_lets_the_next_pull_heal_it() {
    let (_dir, store) = store();
    let image = sample(&store, "app");
    store.unpack_blocking(&image, "pod").unwrap();
    assert!(store.verify().unwrap().is_empty());
    let path = store.cas().path(&image.layers()[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let layer = store.root().join("layers").join(image.layers()[0].chain_id.hex());
    fs::remove_file(layer.join("layer.json")).unwrap();
    fs::write(store.root().join("images/abc.json"), b"{").unwrap();

    let damage = store.verify().unwrap();
    let has = |test: fn(&Damage) -> bool| damage.iter().any(test);
    assert_eq!(damage.len(), 3, "{damage:?}");
    assert!(has(|d| matches!(d, Damage::Blob(_))));
    assert!(has(|d| matches!(d, Damage::Layer { .. })));
    assert!(has(|d| matches!(d, Damage::Image { .. })));
    assert!(damage.iter().all(|d| !d.to_string().contains('\n')));
    assert_eq!(store.remove_damaged(&damage).unwrap(), 1);
    assert!(store.get(&reference("app")).unwrap().is_none());
}

#[test]
fn prune_removes_unused_images_only_when_asked_and_never_those_of_a_lease() {
    let (_dir, store) = store();
    let used = sample(&store, "used");
    sample(&store, "unused");
    store.unpack_blocking(&used, "pod").unwrap();
    assert_eq!(
        store.prune(PruneOptions::default()).unwrap(),
        magik_image::PruneReport::default()
    );
    let report = store.prune(PruneOptions { unused_images: true }).unwrap();
    assert_eq!(report.images, ["docker.io/library/unused:latest"]);
    assert_eq!((report.blobs, report.layers), (3, 0));
    assert!(store.find("used").is_ok());
    store.release("pod").unwrap();
    let report = store.prune(PruneOptions { unused_images: true }).unwrap();
    assert_eq!((report.images.len(), report.blobs, report.layers), (1, 3, 1));
    assert!(store.cas().list().unwrap().is_empty());
}

#[test]
fn prune_sweeps_what_dead_processes_left_and_nothing_else() {
    let (_dir, store) = store();
    let image = sample(&store, "app");
    store.unpack_blocking(&image, "pod").unwrap();
    let layers = store.root().join("layers");
    fs::create_dir_all(layers.join(format!("{}.tmp/fs/deep/er", "a".repeat(64)))).unwrap();
    fs::write(store.root().join("tmp/ingest-x"), b"1").unwrap();
    fs::write(store.root().join("tmp/image-x"), b"1").unwrap();
    fs::write(store.root().join("tmp/other"), b"1").unwrap();
    assert_eq!(store.prune(PruneOptions::default()).unwrap().leftovers, 3);
    assert_eq!(leftovers(&store), ["other"]);
    let left: Vec<_> = fs::read_dir(layers)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(store.unpack_blocking(&image, "pod").unwrap().len(), 1);
}

#[test]
fn a_malformed_lease_stops_prune_rather_than_a_pod() {
    let (_dir, store) = store();
    let image = sample(&store, "app");
    let trees = store.unpack_blocking(&image, "pod").unwrap();
    fs::write(store.root().join("leases/pod"), b"{broken").unwrap();
    store.remove(&reference("app")).unwrap();
    let error = store.prune(PruneOptions::default()).unwrap_err();
    assert!(error.to_string().contains("leases/pod"), "{error}");
    assert!(trees[0].exists());
}

/// As `oci-wasm` keeps a compiled program: its record, and its machine code.
fn compile(store: &ImageStore, module: &[u8], code: &[u8]) -> [std::path::PathBuf; 2] {
    let cache = store.root().join("wasm-cache");
    fs::create_dir_all(&cache).unwrap();
    let hex = |bytes: &[u8]| magik_cas::Digest::sha256(bytes).hex();
    let record = cache.join(format!("{}-settings", hex(module)));
    let machine = cache.join(format!("{}.cwasm", hex(code)));
    fs::write(&machine, code).unwrap();
    fs::write(&record, hex(code)).unwrap();
    [record, machine]
}

#[test]
fn compiled_programs_go_with_the_last_image_and_lease_that_have_their_module() {
    const MODULE: &[u8] = b"\0asm\x01\0\0\0 of an image";
    let (_dir, store) = store();
    let layers = || vec![Tar::new().file("bin/m.wasm", MODULE).file("text", b"\0asn")];
    let image_of = |name| store_support::image(&store, name, layers());
    let (app, other) = (image_of("app"), image_of("other"));
    store.unpack_blocking(&app, "pod").unwrap();
    let kept = compile(&store, MODULE, b"code");
    let mut gone = compile(&store, b"\0asm of nobody", b"other code").to_vec();
    let cache = store.root().join("wasm-cache");
    let file = |name: &str, age: u64| {
        let path = cache.join(name);
        let file = fs::File::create(&path).unwrap();
        let modified = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        file.set_modified(modified).unwrap();
        path
    };
    let at_work = [file("tmpAbc", 60), file(&format!("{}.cwasm", "a".repeat(64)), 60)];
    gone.extend([
        file("tmpOld", 4000),
        file(&format!("{}.cwasm", "b".repeat(64)), 4000),
    ]);

    let report = store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.programs, report.leftovers, report.bytes), (1, 1, 10));
    assert!(kept.iter().chain(&at_work).all(|path| path.exists()));
    assert!(gone.iter().all(|path| !path.exists()));

    // One of two names, then what only a pod holds.
    assert_eq!(store.remove_images(&[app]).unwrap().programs, 0);
    assert_eq!(store.remove_images(&[other]).unwrap().programs, 0);
    assert!(kept.iter().all(|path| path.exists()));
    store.release("pod").unwrap();
    assert_eq!(store.prune(PruneOptions::default()).unwrap().programs, 1);
    assert!(kept.iter().all(|path| !path.exists()));

    // And without a pod, by `rm` itself.
    let app = image_of("app");
    store.unpack_blocking(&app, "pod").unwrap();
    store.release("pod").unwrap();
    let kept = compile(&store, MODULE, b"code");
    assert_eq!(store.remove_images(&[app]).unwrap().programs, 1);
    assert!(kept.iter().all(|path| !path.exists()));
}

/// The figures are those of prune: what it frees was said to be reclaimable.
#[test]
fn usage_counts_what_is_shared_once_and_foretells_what_prune_frees() {
    let (_dir, store) = store();
    assert_eq!(store.usage().unwrap(), magik_image::StoreUsage::default());
    let used = sample(&store, "used");
    let unused = sample(&store, "unused");
    store.unpack_blocking(&used, "pod").unwrap();
    store.unpack_blocking(&unused, "other").unwrap();
    store.release("other").unwrap();
    put(&store, b"no image needs this");
    fs::write(store.cas().tmp_dir().join("ingest-dead"), b"12345").unwrap();

    let usage = store.usage().unwrap();
    assert_eq!((usage.images.count, usage.images.active), (2, 1));
    assert_eq!((usage.layers.count, usage.layers.active), (2, 1));
    let total: u64 = store.cas().list().unwrap().iter().map(|blob| blob.size).sum();
    assert_eq!(usage.images.size, total);
    assert_eq!(usage.images.reclaimable, total - used.size());
    let by_name = |name: &str| usage.image_list.iter().find(|i| i.name.contains(name)).unwrap();
    assert_eq!(by_name("/used").used_by, ["pod"]);
    assert!(by_name("unused").used_by.is_empty() && by_name("unused").shared == 0);
    assert_eq!((usage.temporary.count, usage.temporary.reclaimable), (1, 5));
    {
        let _writer = store.cas().lease().unwrap();
        assert_eq!(store.usage().unwrap().temporary.reclaimable, 0);
    }

    // Another name for an image shares nothing; another image with its layer does.
    store.tag(&reference("again"), used.descriptor()).unwrap();
    assert!(store.usage().unwrap().image_list.iter().all(|i| i.shared == 0));

    let reclaimable = usage.images.reclaimable + usage.layers.reclaimable + usage.temporary.reclaimable;
    let report = store.prune(PruneOptions { unused_images: true }).unwrap();
    assert_eq!(report.bytes, reclaimable);
    let left = store.usage().unwrap();
    assert_eq!((left.images.reclaimable, left.layers.reclaimable), (0, 0));
    assert_eq!(left.layers.count, 1);
}
