//! Mounts that nobody else sees.

use rustix::{mount::MountPropagationFlags, thread::UnshareFlags};

/// Runs something in a thread with a mount namespace of its own, which goes with the thread; says `SKIPPED` without root.
///
/// # Panics
/// If it does, or if the namespace cannot be made.
#[allow(
    unsafe_code,
    clippy::print_stderr,
    reason = "unsharing is unsafe in general; a skipped test says so"
)]
pub fn with_own_mounts(name: &str, test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: a new mount namespace touches no descriptor and no memory of other threads.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        test();
    });
    thread.join().unwrap();
}
