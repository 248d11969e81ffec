//! Links the binary so that it starts fast: container engines start it several times per container, and it executes
//! itself once more wherever a process enters a container.

use std::{env, process::Command};

/// Libraries that are linked statically where the system has an archive of them: each shared one costs a start ten system
/// calls and as many page faults.
const STATIC: [&str; 2] = ["seccomp", "gcc_eh"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let is_static = target("FEATURE")
        .split(',')
        .any(|feature| feature == "crt-static");
    if target("OS") != "linux" || target("ENV") != "gnu" || is_static {
        return;
    }
    // At a fixed address: else the dynamic linker writes 30 000 addresses into 130 pages of it at every start.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    for library in STATIC {
        if has_archive(library) {
            // Comes before the shared one on the linker's command line, which then is not needed.
            println!("cargo::rustc-link-lib=static:-bundle={library}");
        }
    }
}

fn has_archive(library: &str) -> bool {
    let found = Command::new("cc")
        .arg(format!("-print-file-name=lib{library}.a"))
        .output();
    // A name alone says that there is none.
    found.is_ok_and(|out| out.stdout.contains(&b'/'))
}
