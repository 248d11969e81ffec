//! What this host can run, and why not the rest.
//!
//! `cargo run -p magik-oci --example platform`
#![allow(clippy::print_stdout, reason = "an example")]

use magik_oci::Platform;

fn main() {
    let host = Platform::detect();
    for (name, can) in [
        ("native", host.native),
        ("cgroups", host.cgroups),
        ("overlayfs", host.overlayfs),
        ("seccomp", host.seccomp),
        ("landlock", host.landlock),
        ("users", host.user_namespaces),
        ("wasm", host.wasm),
    ] {
        let answer = if can.available { "yes" } else { "no" };
        println!("{name:9} {answer:3} {}", can.detail);
    }
}
