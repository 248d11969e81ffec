//! The first steps of a forked process: dropping what it has of its parent.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// Ends this process at once: no destructor, no atexit handler, no flush of the caller's buffers.
#[allow(
    unsafe_code,
    reason = "std::process::exit would run the caller's atexit handlers"
)]
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always sound; it does not return.
    unsafe { libc::_exit(code) }
}

/// The first number after those of the descriptors to be preserved.
pub(crate) fn first_free(preserve_fds: u32) -> RawFd {
    let end = i32::try_from(preserve_fds).ok().and_then(|n| n.checked_add(3));
    end.unwrap_or(i32::MAX)
}

/// A descriptor under a number from `first` on.
pub(crate) fn above(fd: OwnedFd, first: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= first {
        return Ok(fd);
    }
    let moved = rustix::io::fcntl_dupfd_cloexec(&fd, first)?;
    if fd.as_raw_fd() >= 3 {
        // A number to be preserved, which is the caller's descriptor.
        std::mem::forget(fd);
    }
    Ok(moved)
}

/// Closes every descriptor from `first` on but those, and has those below it survive execve.
pub(crate) fn close_others(first: RawFd, mut keep: Vec<RawFd>) {
    keep.sort_unstable();
    let mut from = first;
    for fd in keep {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, i32::MAX);
    inherit_preserved(first);
}

#[allow(unsafe_code, reason = "rustix has no close_range")]
fn close_range(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: the descriptors are the caller's; this process never touches them again.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Preserved descriptors must survive execve.
#[allow(unsafe_code, reason = "the descriptors are known by number only")]
fn inherit_preserved(first: RawFd) {
    for number in 3..first.min(1024) {
        // SAFETY: borrowed for one call; a number that is not open is an error of fcntl.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
}

/// Overwrites this process's environment: else the container could read it in the memory and the
/// `/proc/PID/environ` of each child, until the child executes another program.
#[allow(unsafe_code, reason = "they are known by address only")]
pub(crate) fn forget_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: this process is a copy with one thread and reads no variables any more; the array
    // ends with a null pointer; its strings are the kernel's or the C library's, and writable.
    unsafe {
        let mut variable = environ;
        while !variable.is_null() && !(*variable).is_null() {
            std::ptr::write_bytes(*variable, 0, libc::strlen(*variable));
            variable = variable.add(1);
        }
    }
}

/// A signal mask of the C library.
#[derive(Clone, Copy)]
pub(crate) struct Mask(libc::sigset_t);

/// Blocks every signal and returns what was blocked before.
#[allow(unsafe_code, reason = "rustix has no signal masks")]
pub(crate) fn block_signals() -> Mask {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initialises `all`, sigprocmask `before`; neither can fail here.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Returns to a mask.
#[allow(unsafe_code, reason = "rustix has no signal masks")]
pub(crate) fn restore_signals(mask: &Mask) {
    // SAFETY: the mask is one that the C library filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
}

/// Sets every signal to its default and unblocks all. Without `sigpipe` SIGPIPE is ignored: hooks
/// need not read their input. Executing a program undoes that.
#[allow(unsafe_code, reason = "rustix has no signal dispositions")]
pub(crate) fn reset_signals(sigpipe: bool) {
    for signal in 1..=64 {
        // The kernel's own structure, handler first, all else zero: the C library refuses signals
        // 32 and 33, which can be ignored all the same.
        let handler = if signal == libc::SIGPIPE && !sigpipe {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        let action = [handler, 0, 0, 0];
        let none = std::ptr::null_mut::<usize>();
        // SAFETY: the kernel reads one structure, no larger than the array, and writes none;
        // neither disposition runs code of ours. SIGKILL and SIGSTOP are an error.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, 8_usize) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises `none`.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Ends the process when it is dropped, so that it never unwinds into its parent's code.
#[derive(Debug)]
pub(crate) struct EndsHere;

impl Drop for EndsHere {
    fn drop(&mut self) {
        exit(101);
    }
}
