//! The other commands, which are another binary's.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use crate::failure;

/// The binary of the pod, image and system commands; it lies beside `magikrun`.
pub const ENGINE_BINARY: &str = "magikrun-engine";

/// Becomes the engine; returns only when that failed.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let engine = match beside() {
        Ok(engine) => engine,
        Err(error) => return failed(&format!("this program's own path: {error}")),
    };
    let error = Command::new(&engine).arg0("magikrun").args(args).exec();
    failed(&format!(
        "{}: {error}: it belongs beside magikrun: install both",
        engine.display()
    ))
}

fn failed(message: &str) -> ExitCode {
    failure::print(message);
    ExitCode::from(failure::OWN_FAILURE)
}

/// Links are followed: the engine is where the binary is, not where it was called.
fn beside() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name(ENGINE_BINARY))
}
