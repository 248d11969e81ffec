//! The workspace's chores: `cargo xtask demo`, `test`, `bench`.
fn main() {}
