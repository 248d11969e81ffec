//! What the workspace's chores have in common: the machine and the checkout they run in.
//!
//! - [`host`]: the checkout, its target directory, and what this process may do.
//! - [`apt`]: installs Debian packages that are missing.
//! - [`tools`]: runs the chores that have many dependencies, each in a package of its own.
#![allow(
    clippy::print_stdout,
    reason = "talking to the person at the terminal is what xtask is for"
)]

pub mod apt;
pub mod host;
pub mod tools;
