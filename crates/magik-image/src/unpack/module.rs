//! A layer that is no archive but one WebAssembly module.

use std::io::{BufRead as _, BufReader, Read};

use magik_cas::Digest;

use super::{
    archive::Archive,
    broken,
    budget::Budget,
    entry::{Entry, Kind, Metadata},
    extract::Extractor,
    fault_of,
    stream::{BUFFER, Hashing},
};
use crate::{Error, Result, store::Layer, wasm::MODULE};

/// Writes the module as the layer's only file and says what it hashes to.
pub(super) fn extract(
    blob: Box<dyn Read>,
    layer: &Layer,
    extractor: &mut Extractor<'_>,
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
    // Its size is checked below.
    let hashed = Hashing::new(blob, layer.diff_id.algorithm(), u64::MAX);
    let mut content = Archive::of_content(BufReader::with_capacity(BUFFER, hashed), layer.size);
    extractor
        .add(entry, &mut content, budget)
        .map_err(|fault| fault_of(layer, fault, MODULE))?;
    // Only at its end is it known that a blob which was still arriving is whole.
    let mut rest = content.into_inner();
    if !rest.fill_buf().map_err(|e| broken(layer, &e))?.is_empty() {
        return Err(Error::InvalidLayer {
            layer: layer.digest,
            reason: format!("has more than the {} bytes that the manifest says", layer.size),
        });
    }
    Ok(rest.into_inner().hasher.finish())
}
