//! Placeholder front page, replaced with the crate.
