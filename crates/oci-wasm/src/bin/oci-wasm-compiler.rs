//! A helper binary that does nothing but compile: what a program that cannot call `run_compiler_if_asked` in its own
//! `main` (a test harness, a language binding) names as its helper.

fn main() {
    oci_wasm::run_compiler_if_asked();
    std::process::exit(2);
}
