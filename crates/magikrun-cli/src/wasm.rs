//! `magikrun-wasm`: a WebAssembly pod, and the compiler of its programs.

use std::process::ExitCode;

fn main() -> ExitCode {
    oci_wasm::run_compiler_if_asked();
    magik_pri::wasm::pod_main()
}
