//! What the fuzz targets (crates/magik-image/fuzz) call. Built for them only.

use std::path::{Path, PathBuf};

use super::{
    archive::{Archive, Piece},
    budget::{Budget, RootfsBudget},
    entry::Entry,
    extract::Extractor,
    tree::{Fault, open_root},
};
use crate::Limits;

/// Less than by default, so that what fills memory or takes long is found early.
fn limits() -> Limits {
    Limits {
        max_layer_size: 1 << 20,
        max_files_per_layer: 500,
        max_names_size: 1 << 20,
        ..Limits::default()
    }
}

/// Reads an archive to its end; returns how many bytes its files have.
///
/// # Errors
/// Why it is refused.
pub fn archive(bytes: &[u8]) -> Result<u64, String> {
    let mut archive = Archive::new(bytes, 1 << 16);
    let mut total = 0_u64;
    while let Some(member) = archive.next_member().map_err(|e| e.to_string())? {
        let entry = Entry::parse(member);
        if let Ok(entry) = &entry {
            assert!(
                !entry
                    .path
                    .split(|b| *b == b'/')
                    .any(|name| matches!(name, b".." | b"."))
            );
            assert!(!entry.path.starts_with(b"/") && !entry.path.contains(&0));
        }
        while let Some(piece) = archive.next_piece().map_err(|e| e.to_string())? {
            let piece = match piece {
                Piece::Data(bytes) => bytes.len() as u64,
                Piece::Hole(hole) => hole,
            };
            assert!(piece > 0, "a reader would never end");
            total = total.saturating_add(piece);
        }
    }
    Ok(total)
}

/// Unpacks layers, the lowest first, into one directory.
///
/// # Errors
/// Why they are refused.
pub fn flat(layers: &[&[u8]], dir: &Path) -> Result<(), String> {
    for (n, layer) in layers.iter().enumerate() {
        let root = open_root(dir).map_err(|e| e.to_string())?;
        extract(layer, Extractor::flat(root, n == 0))?;
    }
    Ok(())
}

/// Unpacks layers, the lowest first, into one directory each.
///
/// # Errors
/// Why they are refused.
pub fn overlay(layers: &[&[u8]], dirs: &[PathBuf]) -> Result<(), String> {
    for (n, layer) in layers.iter().enumerate() {
        let root = open_root(&dirs[n]).map_err(|e| e.to_string())?;
        let lower = || Ok(dirs[..n].iter().rev().cloned().collect());
        extract(layer, Extractor::overlay(root, &lower))?;
    }
    Ok(())
}

fn extract(layer: &[u8], mut extractor: Extractor<'_>) -> Result<(), String> {
    let limits = limits();
    let rootfs = RootfsBudget::new("fuzz".to_owned(), &limits);
    let mut budget = Budget::new(&rootfs, &limits, "layer".to_owned());
    let mut archive = Archive::new(layer, 1 << 16);
    let text = |fault| match fault {
        Fault::Refused(reason) => reason,
        Fault::Io(e) => e.to_string(),
        Fault::Other(e) => e.to_string(),
    };
    while let Some(member) = archive.next_member().map_err(|e| e.to_string())? {
        let entry = Entry::parse(member)?;
        extractor.add(entry, &mut archive, &mut budget).map_err(text)?;
    }
    extractor.finish().map_err(|(_, fault)| text(fault))?;
    Ok(())
}
