//! Finding a program inside of the container, and executing it.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use magik_oci::ExecFailure;

use crate::failure::{CannotExecute, Failure};

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first byte of the answer to `start`: everything before execve itself went well.
pub(crate) const EXECUTING: u8 = b'E';

/// execve, which only returns to say why not.
pub(crate) fn execute(name: &str, program: &Path, args: &[String], environment: &[String]) -> Failure {
    let c_strings = |strings: &[String]| -> Result<Vec<CString>, std::ffi::NulError> {
        strings.iter().map(|s| CString::new(s.as_bytes())).collect()
    };
    let path = CString::new(program.as_os_str().as_bytes());
    let (Ok(path), Ok(argv), Ok(envp)) = (path, c_strings(args), c_strings(environment)) else {
        return Failure::Other("an argument or variable holds a NUL byte".into());
    };
    // Rust ignores SIGPIPE, and execve keeps that: `yes | head` would never end.
    default_sigpipe();
    let error = magik_sys::program::execve(&path, &argv, &envp);
    let mut why = because(name, &error);
    if why.failure == ExecFailure::NotFound && program.exists() {
        // A script's interpreter, or a dynamic loader.
        why.reason = format!("its interpreter or loader: {}", why.reason);
    }
    Failure::Executable(why)
}

/// The search path; of several variables the last one counts.
pub(crate) fn search_path(environment: &[String]) -> &str {
    let given = environment.iter().rev().find_map(|v| v.strip_prefix("PATH="));
    given.unwrap_or(DEFAULT_PATH)
}

/// As execvp, but with the reason for a failure.
pub(crate) fn find_program(name: &str, path: &str) -> Result<PathBuf, CannotExecute> {
    let check = |program: &Path| -> io::Result<()> {
        if fs::metadata(program)?.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        let access = rustix::fs::Access::EXEC_OK;
        Ok(rustix::fs::accessat(
            rustix::fs::CWD,
            program,
            access,
            rustix::fs::AtFlags::EACCESS,
        )?)
    };
    if name.contains('/') {
        return check(Path::new(name))
            .map(|()| name.into())
            .map_err(|e| because(name, &e));
    }
    let mut denied = None;
    for dir in path.split(':') {
        let program = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match check(&program) {
            Ok(()) => return Ok(program),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => denied = Some(e),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(e) => because(name, &e),
        None => CannotExecute::new(name, ExecFailure::NotFound, "executable file not found in $PATH"),
    })
}

/// From the kernel's error; engines look for these words.
fn because(program: &str, error: &io::Error) -> CannotExecute {
    let mut reason = os_reason(error);
    // For a directory the kernel and runc report EACCES; access(2) does not.
    if error.raw_os_error() == Some(libc::EISDIR) {
        reason = format!("permission denied: {reason}");
    }
    CannotExecute::new(program, ExecFailure::of(error), reason)
}

/// The kernel's words without Rust's "(os error n)".
fn os_reason(e: &io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[allow(unsafe_code, reason = "rustix has no signal dispositions")]
fn default_sigpipe() {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_why_a_program_cannot_be_executed() {
        assert_eq!(find_program("sh", "/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(find_program("/bin/sh", ""), Ok("/bin/sh".into()));
        for (name, path, failure, reason) in [
            (
                "nosuch",
                "/bin",
                ExecFailure::NotFound,
                "executable file not found in $PATH",
            ),
            (
                "/nosuch",
                "/bin",
                ExecFailure::NotFound,
                "no such file or directory",
            ),
            ("/etc/passwd/x", "/", ExecFailure::NotFound, "not a directory"),
            (
                "/bin",
                "/",
                ExecFailure::Denied,
                "permission denied: is a directory",
            ),
            ("passwd", "/etc", ExecFailure::Denied, "permission denied"),
        ] {
            let why = CannotExecute::new(name, failure, reason);
            assert_eq!(find_program(name, path), Err(why));
        }
    }
}
