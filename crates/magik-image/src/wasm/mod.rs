//! WebAssembly as an OCI artifact, and bare files of it.
//!
//! An artifact is a manifest with a configuration of type [`CONFIG_TYPE`] and the module as its
//! only layer (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>), or in the
//! older form of `wasm-to-oci`. It is an image with one file, [`MODULE`], its entrypoint.

pub(crate) mod config;
mod file;

pub use config::{CONFIG_TYPE, LAYER_TYPE, MODULE};
pub use file::{is_module_file, load};

use crate::Image;

impl Image {
    /// Whether it is for a WebAssembly runtime: an artifact, or of a platform as `wasi/wasm`.
    #[must_use]
    pub fn is_wasm(&self) -> bool {
        crate::platform::Platform::from(&self.config).is_wasm()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        config::{check_layers, read_config},
        *,
    };
    use crate::{ImageStore, Limits, Reference};

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("root")).unwrap();
        (dir, store)
    }

    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn a_module_becomes_an_image_with_one_file_that_is_run() {
        let (dir, store) = store();
        let file = dir.path().join("m.wasm");
        std::fs::write(&file, EMPTY).unwrap();
        assert!(is_module_file(&file).unwrap());
        let name: Reference = "localhost/m:1".parse().unwrap();
        let image = load(&store, &file, Some(&name)).unwrap();
        assert!(image.is_wasm());
        assert_eq!(
            store.get(&name).unwrap().unwrap().manifest_digest,
            image.manifest_digest
        );
        let run = image.config.config().as_ref().unwrap();
        assert_eq!(run.entrypoint().as_deref().unwrap(), ["/main.wasm"]);
        let layers = store.unpack_blocking(&image, "lease").unwrap();
        assert_eq!(std::fs::read(layers[0].join(MODULE)).unwrap(), EMPTY);
        let flat = dir.path().join("flat");
        store.unpack_flat(&image, &flat).unwrap();
        assert_eq!(std::fs::read(flat.join(MODULE)).unwrap(), EMPTY);
        store.release("lease").unwrap();
    }

    #[cfg(feature = "wasm")]
    #[test]
    fn text_is_translated_and_its_mistakes_are_one_line() {
        let (dir, store) = store();
        let file = dir.path().join("m.wat");
        std::fs::write(&file, "(component)").unwrap();
        assert!(is_module_file(&file).unwrap());
        let image = load(&store, &file, None).unwrap();
        assert_eq!(image.config.os().to_string(), "wasip2");
        for text in ["(module (func $f (call $g)))", "#!/bin/sh", ""] {
            std::fs::write(&file, text).unwrap();
            let said = load(&store, &file, None).unwrap_err().to_string();
            assert!(said.contains("m.wat") && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn an_artifact_has_one_module_and_a_configuration_that_agrees_with_it() {
        let (dir, store) = store();
        let file = dir.path().join("m.wasm");
        std::fs::write(&file, EMPTY).unwrap();
        let image = load(&store, &file, None).unwrap();
        let digest = image.config_digest;
        let read = |text: &str| read_config(text.as_bytes(), &digest, &image.manifest, &Limits::default());
        // As wasm-to-oci wrote them.
        assert_eq!(read("{}").unwrap().os().to_string(), "wasi");
        for (text, reason) in [
            (r#"{"architecture":"amd64"}"#, "architecture"),
            (r#"{"layerDigests":["sha256:00"]}"#, "layerDigests"),
            ("[", "EOF"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(
                said.contains(reason) && said.starts_with("config sha256:"),
                "{said}"
            );
        }
        let module = image.manifest.layers()[0].clone();
        assert!(check_layers(std::slice::from_ref(&module)).is_ok());
        assert!(check_layers(&[]).is_err() && check_layers(&[module.clone(), module]).is_err());
    }
}
