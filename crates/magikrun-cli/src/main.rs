//! magikrun: run pods and OCI containers.
fn main() {}
