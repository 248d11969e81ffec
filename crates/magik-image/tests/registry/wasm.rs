//! WebAssembly artifacts: pulled, and unpacked while they arrive, as images are.

use magik_cas::Digest;
use magik_image::{
    ImageSource,
    pull::PullOptions,
    wasm::{CONFIG_TYPE, LAYER_TYPE, MODULE},
};
use serde_json::json;

use crate::{
    fixture::{Served, World, descriptor, options, reference},
    server::Server,
};

/// An artifact of these modules; there should be one.
fn artifact(modules: &[&[u8]]) -> Served {
    let mut served = Served::new(modules);
    let digests: Vec<String> = modules.iter().map(|m| Digest::sha256(m).to_string()).collect();
    let config = json!({"architecture": "wasm", "os": "wasip1", "layerDigests": digests});
    let config = config.to_string().into_bytes();
    served.manifest["config"] = descriptor(CONFIG_TYPE, &config);
    for (i, module) in modules.iter().enumerate() {
        served.manifest["layers"][i] = descriptor(LAYER_TYPE, module);
    }
    served.blobs.insert(Digest::sha256(&config).to_string(), config);
    served
}

fn unpacking() -> PullOptions {
    PullOptions {
        unpack: true,
        ..options()
    }
}

#[tokio::test]
async fn an_artifact_is_pulled_and_is_its_module() {
    for size in [8, 3 << 20] {
        let module: Vec<u8> = b"\0asm\x01\0\0\0".iter().copied().cycle().take(size).collect();
        let image = artifact(&[&module]);
        let server = Server::start(move |r| image.reply(r)).await;
        let world = World::new();
        let source = ImageSource::Registry(reference(&server.address));
        let image = world.store.pull(&source, &unpacking(), &()).await.unwrap();
        assert!(image.is_wasm());
        let layers = world.store.unpack(&image, "lease").await.unwrap();
        assert_eq!(layers.len(), 1);
        assert_eq!(std::fs::read(layers[0].join(MODULE)).unwrap(), module);
    }
}

#[tokio::test]
async fn an_artifact_of_two_modules_is_refused_before_they_are_fetched() {
    let (one, other): (&[u8], &[u8]) = (b"\0asm\x01\0\0\0", b"\0asm\x01\0\0\0\0");
    let image = artifact(&[one, other]);
    let server = Server::start(move |r| image.reply(r)).await;
    let world = World::new();
    let before = world.census();
    let source = ImageSource::Registry(reference(&server.address));
    let error = world.store.pull(&source, &unpacking(), &()).await.unwrap_err();
    assert!(error.to_string().contains("has 2 layers"), "{error}");
    assert_eq!(world.census(), before);
    let asked = server.requests();
    let module = Digest::sha256(one).to_string();
    assert!(asked.iter().all(|r| !r.path.ends_with(&module)), "{asked:?}");
}
