//! A helper binary that does nothing but an `oci-native` worker's part: what a multi-threaded program that cannot call
//! `run_worker_if_asked` in its own `main` (a test harness, a language binding) names as its helper.

fn main() {
    #[cfg(target_os = "linux")]
    oci_native::run_worker_if_asked();
    std::process::exit(2);
}
