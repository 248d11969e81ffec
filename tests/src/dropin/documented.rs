//! What docs/drop-in.md tells users to write, so that the tests try just that.

use std::path::Path;

const PAGE: &str = include_str!("../../../docs/drop-in.md");

/// The block of code of docs/drop-in.md that has `part` in it, for a runtime at `runtime`.
///
/// # Panics
/// If there is none, or more than one.
#[must_use]
pub fn documented(part: &str, runtime: &Path) -> String {
    // Blocks are what lies between every other pair of fences; their first line is the language.
    let mut blocks = PAGE
        .split("```")
        .skip(1)
        .step_by(2)
        .filter(|block| block.contains(part));
    let block = blocks.next().unwrap_or_else(|| panic!("no block has {part:?}"));
    assert!(blocks.next().is_none(), "more than one block has {part:?}");
    let (_, text) = block.split_once('\n').expect("a line of its own");
    text.replace("/usr/local/bin/magikrun", &runtime.display().to_string())
}
