//! What the checks of all fields have in common.

use std::path::{Component, Path, PathBuf};

use super::SpecError;

pub(super) type Result<T> = std::result::Result<T, SpecError>;

/// Puts the path before a reason.
pub(super) trait At<T> {
    fn at(self, path: &str) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, String> {
    fn at(self, path: &str) -> Result<T> {
        self.map_err(|reason| SpecError::invalid(path, reason))
    }
}

/// Takes an absolute path without `..`, and drops what means nothing in it.
pub(super) fn absolute(text: &str) -> std::result::Result<PathBuf, String> {
    let path = Path::new(text);
    if text.len() > 4095 || text.contains('\0') {
        return Err("is no path: too long, or it holds a NUL".into());
    }
    if !path.is_absolute() {
        return Err(format!("{text:?} must be absolute"));
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(format!("{text:?} must not hold '..'"));
    }
    Ok(path.components().collect())
}
