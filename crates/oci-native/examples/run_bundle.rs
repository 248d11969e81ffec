//! Makes a container from a bundle, starts it and waits for its end. Needs root.
//!
//! `sudo target/debug/examples/run_bundle BUNDLE`
#![allow(clippy::print_stdout, reason = "an example")]

use std::process::ExitCode;

use magik_oci::{CreateOptions, OciRuntime, Stdio};
use oci_native::NativeRuntime;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    // A program with several threads makes its containers in another process of itself.
    oci_native::run_worker_if_asked();
    if !rustix::process::geteuid().is_root() {
        return Err("containers are made by root: run this with sudo".into());
    }
    // No container can write to this program's file.
    oci_native::seal_self_exe()?;
    let bundle = std::env::args_os().nth(1).ok_or("which bundle?")?;
    let runtime = NativeRuntime::builder("/run/oci-native-example".into()).build();
    let id = format!("example-{}", std::process::id()).parse()?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let exit = tokio.block_on(async {
        let (streams, options) = (Stdio::default(), CreateOptions::default());
        runtime.create(&id, bundle.as_ref(), streams, options).await?;
        runtime.start(&id).await?;
        let exit = runtime.wait(&id).await?;
        runtime.delete(&id, false).await?;
        Ok::<_, magik_oci::Error>(exit)
    })?;
    println!("exit code {}", exit.code);
    Ok(u8::try_from(exit.code).map_or(ExitCode::FAILURE, ExitCode::from))
}
