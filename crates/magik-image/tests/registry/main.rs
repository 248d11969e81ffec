//! Pulling and pushing: from and to a real registry, and from registries that mean harm.
#![allow(clippy::print_stderr)] // a test that is skipped says so

mod crash;
mod debian;
mod disk_full;
mod fixture;
mod hostile;
mod network;
mod secrets;
mod server;
mod tls;
mod wasm;
