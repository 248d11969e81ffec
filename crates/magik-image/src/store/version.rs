//! The version of a store's format.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
};

use super::{format::VERSION, record};
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
    let mut text = String::new();
    let read = fs::File::open(&path).and_then(|file| file.take(MAX_SIZE).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return write(&path, tmp),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
        Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
    }
    match text.trim().parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(found) => Err(Error::StoreVersion {
            root: root.to_owned(),
            found,
        }),
        Err(_) => Err(Error::InvalidDocument {
            document: path.display().to_string(),
            reason: "is no version of the store's format: remove the file if the store is this magikrun's"
                .into(),
        }),
    }
}

/// Several processes may do so at once: they write the same.
fn write(path: &Path, tmp: &Path) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut temp = tempfile::Builder::new().prefix(record::PREFIX).tempfile_in(tmp)?;
        writeln!(temp, "{VERSION}")?;
        temp.persist(path)?;
        Ok(())
    };
    match write() {
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
