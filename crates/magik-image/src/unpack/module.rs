//! A layer that is no archive but one WebAssembly module.

use std::fs::File;

use magik_cas::Digest;

use super::{
    budget::Budget,
    entry::{Entry, Kind, Metadata},
    entry_failed,
    extract::{Extractor, Fault},
};
use crate::{Error, Result, store::Layer, wasm::MODULE};

/// Writes the module as the layer's only file and says what it hashes to.
pub(super) fn extract(
    blob: File,
    layer: &Layer,
    extractor: &mut Extractor,
    budget: &mut Budget<'_>,
) -> Result<Digest> {
    let entry = Entry {
        path: MODULE.into(),
        kind: Kind::File,
        metadata: Metadata {
            mode: 0o755,
            ..Metadata::default()
        },
    };
    let mut content = Hashed {
        file: blob,
        hasher: layer.diff_id.algorithm().hasher(),
    };
    extractor
        .add(entry, &mut content, budget)
        .map_err(|fault| match fault {
            Fault::Limit(error) => *error,
            Fault::Io(e) => entry_failed(layer, MODULE.as_bytes(), e),
            Fault::Refused(reason) => Error::InvalidEntry {
                layer: layer.digest,
                entry: MODULE.into(),
                reason,
            },
        })?;
    Ok(content.hasher.finish())
}

/// What is read is hashed.
struct Hashed {
    file: File,
    hasher: magik_cas::Hasher,
}

impl std::io::Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}
