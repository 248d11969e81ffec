//! `magikrun-wasm`: a WebAssembly pod, a WebAssembly program in a native container, and the compiler of both.

use std::process::ExitCode;

fn main() -> ExitCode {
    oci_wasm::run_compiler_if_asked();
    #[cfg(target_os = "linux")]
    if let Some(code) = oci_wasm::run_sandboxed_if_asked() {
        return code;
    }
    magik_pri::wasm::pod_main()
}
