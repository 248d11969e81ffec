//! Image layouts and archives.

/// Not yet.
#[must_use]
pub fn cases() -> Vec<()> {
    Vec::new()
}
