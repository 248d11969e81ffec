//! A helper binary that only compiles. It is for a program that cannot call `run_compiler_if_asked`
//! in its own `main`, as a test harness.

fn main() {
    oci_wasm::run_compiler_if_asked();
    std::process::exit(2);
}
