//! The version of a store's format.

use std::{io, path::Path};

use magik_cas::Durability;

use super::format::VERSION;
use crate::{Error, Result};

/// Where it is written.
const FILE: &str = "format";
/// The most that is read of it, in bytes.
const MAX_SIZE: u64 = 64;

/// Refuses a store of another version, and marks one that has no version yet.
///
/// Stores written before there was the file are of version 1.
pub(super) fn check(root: &Path, tmp: &Path) -> Result<()> {
    let path = root.join(FILE);
    let read = super::read_small(&path, MAX_SIZE);
    let Some(text) = read.map_err(Error::io(format!("read {}", path.display())))? else {
        return write(&path, tmp);
    };
    match String::from_utf8_lossy(&text).trim().parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(found) => Err(Error::StoreVersion {
            root: root.to_owned(),
            found,
        }),
        Err(_) => Err(Error::document(
            path.display().to_string(),
            "is no version of the store's format: remove the file if the store is this magikrun's",
        )),
    }
}

/// Several processes may do so at once: they write the same.
fn write(path: &Path, tmp: &Path) -> Result<()> {
    let text = format!("{VERSION}\n");
    match super::replace(tmp, path, text.as_bytes(), Durability::None) {
        // A store that cannot be written can still be read.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Ok(())
        }
        other => other.map_err(Error::io(format!("write {}", path.display()))),
    }
}
