//! Writes the corpus to files.
fn main() {}
