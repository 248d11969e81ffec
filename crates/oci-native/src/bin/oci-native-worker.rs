//! A helper binary that only does the worker's part of `oci-native`. It is for a program with
//! several threads that cannot call `run_worker_if_asked` in its own `main`, as a test harness.

fn main() {
    #[cfg(target_os = "linux")]
    oci_native::run_worker_if_asked();
    std::process::exit(2);
}
