//! Hostile layers and image layouts, made by a program, each with what must become of it.
//!
//! [`layers`] makes archives of layers and says what an image of them holds, or why it is refused; [`layouts`] does so for OCI
//! layouts and archives in which images come. `crates/magik-image/tests/corpus.rs` unpacks all of them; the program of this
//! crate writes them to files, for trying them on others:
//!
//! ```sh
//! cargo run -p magikrun-test-corpus -- DIR
//! ```

pub mod layers;
pub mod layouts;
pub mod tarball;
pub mod tree;

/// What must become of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// It is refused with an error that holds this text.
    Refused(&'static str),
    /// It is taken. Of layers: the root filesystem is this, as [`tree::listing`] shows it.
    Taken(String),
}

/// The limits that the largest cases go one past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Of a layer's decompressed bytes; a multiple of 16 MiB.
    pub layer_size: u64,
    /// Of a layer's entries.
    pub files: usize,
    /// Of the bytes of its names and its directories' attributes; a multiple of 1 MiB.
    pub names: usize,
}

impl Bounds {
    /// Those of magikrun's design, for trying the cases on other programs, too.
    pub const DESIGN: Self = Self {
        layer_size: 512 << 20,
        files: 100_000,
        names: 64 << 20,
    };
    /// For tests: the same cases in a fraction of the time.
    pub const SMALL: Self = Self {
        layer_size: 32 << 20,
        files: 3_000,
        names: 8 << 20,
    };
}
