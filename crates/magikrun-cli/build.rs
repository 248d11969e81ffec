//! Links the binaries so that they start faster: each has some 40 000 addresses that the dynamic linker adjusts, as the
//! binary may be anywhere in memory. In the packed form (DT_RELR) they are a hundredth of the size to read.

use std::{env, fs, process::Command};

/// What a C library that can read the packed form says of itself (glibc 2.36).
const PACKED: &[u8] = b"GLIBC_ABI_DT_RELR";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" && libc_reads_packed() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

fn libc_reads_packed() -> bool {
    let library = Command::new("cc").arg("-print-file-name=libc.so.6").output();
    let path = library.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    path.and_then(fs::read)
        .is_ok_and(|libc| libc.windows(PACKED.len()).any(|bytes| bytes == PACKED))
}
