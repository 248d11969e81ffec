//! `magikrun-wasm`: a WebAssembly pod, a WebAssembly program in a native container, and the compiler of both.

use std::process::ExitCode;

fn main() -> ExitCode {
    oci_wasm::run_compiler_if_asked();
    #[cfg(target_os = "linux")]
    if let Some(ended) = oci_wasm::run_sandboxed_if_asked() {
        return ended.unwrap_or_else(|error| {
            // Nobody is left to tell.
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("{error}\n").as_bytes());
            ExitCode::from(oci_wasm::CANNOT_RUN)
        });
    }
    magik_pri::run_role_if_asked(&[magik_pri::wasm::ROLE]).unwrap_or(ExitCode::FAILURE)
}
