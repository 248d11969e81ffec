//! Runs a WebAssembly program as a container of this process, without root.
//!
//! `cargo run -p magik-wasm --example run_module -- MODULE`
#![allow(clippy::print_stdout, reason = "an example")]

use magik_oci::{CreateOptions, OciRuntime, Stdio};
use oci_wasm::{Loader, WasmtimeRuntime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Programs are compiled by another process of this program.
    oci_wasm::run_compiler_if_asked();
    let module = std::env::args_os().nth(1).ok_or("which module?")?;
    let bundle = tempfile::tempdir()?;
    std::fs::create_dir(bundle.path().join("rootfs"))?;
    std::fs::copy(module, bundle.path().join("rootfs/app.wasm"))?;
    let spec = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/app.wasm"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": true},
    });
    std::fs::write(bundle.path().join("config.json"), spec.to_string())?;

    let loader = Loader::builder(bundle.path().join("cache")).build();
    let runtime = WasmtimeRuntime::new(loader);
    let id = "example".parse()?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let exit = tokio.block_on(async {
        let (streams, options) = (Stdio::default(), CreateOptions::default());
        runtime.create(&id, bundle.path(), streams, options).await?;
        runtime.start(&id).await?;
        runtime.wait(&id).await
    })?;
    println!("exit code {}", exit.code);
    Ok(())
}
