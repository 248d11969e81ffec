//! Real pods: a pod init as PID 1 of new namespaces, with busybox containers, driven over its control service.
//!
//! Called as `pods pod-init …` this program is the init; else it is the tests.
#![allow(clippy::print_stderr, missing_docs)]

#[cfg(target_os = "linux")]
mod cases;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod world;

#[cfg(target_os = "linux")]
fn main() {
    if std::env::args().nth(1).as_deref() == Some(init::ARGUMENT) {
        init::main();
    }
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), cases::all()).exit();
}

#[cfg(not(target_os = "linux"))]
fn main() {}
