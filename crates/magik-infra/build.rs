//! Generates the control service's messages, client and server from `proto/control.proto` (pure Rust, no protoc).

use std::{env, error::Error, fs, path::Path};

use ttrpc_codegen::{Codegen, Customize};

fn main() -> Result<(), Box<dyn Error>> {
    const PROTO: &str = "proto/control.proto";
    std::println!("cargo::rerun-if-changed={PROTO}");
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    Codegen::new()
        .input(PROTO)
        .include("proto")
        .rust_protobuf()
        .customize(Customize {
            async_all: true,
            ..Customize::default()
        })
        .run()?;
    // The generator's own mod.rs starts with an inner attribute, which include! does not take.
    fs::write(
        Path::new(&out).join("rpc.rs"),
        "pub mod control;\npub mod control_ttrpc;\n",
    )?;
    Ok(())
}
