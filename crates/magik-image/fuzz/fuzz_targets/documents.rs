//! Manifests, indexes and configurations are refused, or within all limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use magik_cas::Digest;
use magik_image::{
    Limits,
    manifest::{Document, MANIFEST_TYPES, parse, parse_config},
    platform::{self, Platform},
};

fuzz_target!(|input: (u8, &[u8])| {
    let (fetched_as, bytes) = input;
    let limits = Limits::default();
    let digest = Digest::sha256(bytes);
    let fetched_as = MANIFEST_TYPES.get(usize::from(fetched_as)).copied();
    match parse(bytes, &digest, fetched_as, &limits) {
        Ok(Document::Manifest(manifest)) => {
            assert!(manifest.layers().len() <= limits.max_layers);
            for layer in manifest.layers() {
                layer.digest().as_ref().parse::<Digest>().expect("checked");
                assert!(layer.size() <= limits.max_layer_size);
            }
            manifest.config().digest().as_ref().parse::<Digest>().expect("checked");
        }
        Ok(Document::Index(index)) => {
            let _ = platform::choose(index.manifests(), &Platform::host());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 4096, "{}", message.len());
        }
    }
    if let Ok(config) = parse_config(bytes, &digest, &limits) {
        for id in config.rootfs().diff_ids() {
            id.parse::<Digest>().expect("checked");
        }
        let _ = platform::check(&config, &Platform::host());
    }
});
