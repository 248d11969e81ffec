//! The last steps inside the container: finding the program, what libcontainer leaves out of an exec, and execve.

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::CString,
    fs,
    io::{self, Write},
    mem::ManuallyDrop,
    os::{
        fd::{AsFd, FromRawFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use libcontainer::{
    capabilities,
    syscall::syscall::create_syscall,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use magik_oci::ExecFailure;
use oci_spec::runtime::{LinuxCapabilities, Process, Spec};
use serde::{Deserialize, Serialize};

use crate::{runner::RunnerCommand, seccomp::Filter, worker::Failure};

/// Where programs are looked for when the environment has no PATH (trap 11: libcontainer's own executor then fails).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Encloses a [`CannotExecute`] in libcontainer's error texts, which have no place for a typed error of ours.
const MARK: char = '\u{1}';
/// The first byte on the status descriptor: everything went well up to execve itself.
pub(crate) const EXECUTING: u8 = b'E';

/// Why a program cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CannotExecute {
    pub(crate) program: String,
    pub(crate) failure: ExecFailure,
    pub(crate) reason: String,
}

impl CannotExecute {
    pub(crate) fn new(program: &str, failure: ExecFailure, reason: impl Into<String>) -> Self {
        Self {
            program: program.to_owned(),
            failure,
            reason: reason.into(),
        }
    }

    /// From the kernel's answer. Its words are those that engines look for.
    fn because(program: &str, error: &io::Error) -> Self {
        let mut reason = os_reason(error);
        // The kernel says EACCES of a directory, and so does runc; access(2) does not.
        if error.raw_os_error() == Some(libc::EISDIR) {
            reason = format!("permission denied: {reason}");
        }
        Self::new(program, ExecFailure::of(error), reason)
    }

    fn marked(&self) -> String {
        format!("{MARK}{}{MARK}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Finds one in the text of a libcontainer error.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split(MARK)
            .nth(1)
            .and_then(|json| serde_json::from_str(json).ok())
    }
}

/// The last of what confines a process.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) filter: Option<Filter>,
    pub(crate) capabilities: Option<LinuxCapabilities>,
    pub(crate) no_new_privileges: bool,
}

/// Executes the program of a container, or of an exec.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    /// Set for a container with a compiled filter, which is loaded here rather than by libcontainer.
    pub(crate) sandbox: Option<Sandbox>,
    /// Where a container's init says how execve went; close-on-exec, so its end says "well".
    pub(crate) status: Option<RawFd>,
    /// The worker's own descriptors, of which the container's init has copies: closed before it waits for `start`, or their
    /// other ends would see no end while it does (trap 8).
    pub(crate) close: Vec<RawFd>,
    /// The SELinux label, where SELinux is enabled.
    pub(crate) label: Option<String>,
    /// What is executed instead of a program of the container's.
    pub(crate) runner: Option<RunnerCommand>,
    pub(crate) envs: RefCell<Vec<String>>,
    pub(crate) program: RefCell<Option<PathBuf>>,
}

impl Launcher {
    pub(crate) fn new(
        sandbox: Option<Sandbox>,
        status: Option<RawFd>,
        close: Vec<RawFd>,
        label: Option<String>,
        runner: Option<RunnerCommand>,
    ) -> Self {
        Self {
            sandbox,
            status,
            close,
            label,
            runner,
            envs: RefCell::default(),
            program: RefCell::default(),
        }
    }

    #[allow(
        unsafe_code,
        reason = "the descriptor's number was chosen before libcontainer forked, and outlives it"
    )]
    fn report(&self, bytes: &[u8]) {
        if let Some(fd) = self.status {
            // SAFETY: the worker opened the descriptor and keeps it open; ManuallyDrop leaves it so.
            let mut file = ManuallyDrop::new(unsafe { fs::File::from_raw_fd(fd) });
            // Nobody is left to tell if it fails.
            let _ = file.write_all(bytes);
        }
    }

    #[allow(
        unsafe_code,
        reason = "the numbers are those of descriptors that this copy of the worker never uses"
    )]
    fn close_workers(&self) {
        for fd in &self.close {
            // SAFETY: see above; the objects that own them live in the worker, which is another process.
            unsafe { libc::close(*fd) };
        }
    }

    /// Everything up to execve, which only returns to say why not.
    fn launch(&self, spec: &Spec) -> Result<std::convert::Infallible, String> {
        let args = spec
            .process()
            .as_ref()
            .and_then(|p| p.args().as_deref())
            .unwrap_or_default();
        let name = args.first().map_or("", String::as_str);
        let program = self.program.borrow().clone().unwrap_or_else(|| name.into());
        if let Some(process) = spec.process().as_ref().filter(|p| p.terminal() == Some(true)) {
            set_console_size(&rustix::stdio::stdin(), process);
        }
        if let Some(runner) = &self.runner {
            runner
                .let_inherit()
                .map_err(|e| format!("handing down descriptors: {e}"))?;
        }
        if let Some(label) = &self.label {
            fs::write("/proc/thread-self/attr/exec", label)
                .map_err(|e| format!("SELinux label {label}: {e}"))?;
        }
        if let Some(sandbox) = &self.sandbox {
            sandbox.enter()?;
        }
        self.report(&[EXECUTING]);
        let envs = self.envs.borrow();
        let failure = match &self.runner {
            None => execute(name, &program, args, &envs),
            Some(runner) => execute(
                name,
                runner.path.as_ref(),
                &runner.arguments(args),
                &RunnerCommand::environment(&envs),
            ),
        };
        Err(match failure {
            Failure::Executable(why) => why.marked(),
            Failure::Other(text) => text,
        })
    }
}

/// execve, which only returns to say why not.
pub(crate) fn execute(name: &str, program: &Path, args: &[String], environment: &[String]) -> Failure {
    let c_strings = |strings: &[String]| -> Result<Vec<CString>, std::ffi::NulError> {
        strings.iter().map(|s| CString::new(s.as_bytes())).collect()
    };
    let path = CString::new(program.as_os_str().as_bytes());
    let (Ok(path), Ok(argv), Ok(envp)) = (path, c_strings(args), c_strings(environment)) else {
        return Failure::Other("an argument or variable holds a NUL byte".into());
    };
    // What is ignored stays ignored across execve, and Rust ignores SIGPIPE: `yes | head` would never end.
    default_sigpipe();
    let error = execve(&path, &argv, &envp);
    let mut why = CannotExecute::because(name, &error);
    if why.failure == ExecFailure::NotFound && program.exists() {
        // A script's interpreter, or a dynamic loader.
        why.reason = format!("its interpreter or loader: {}", why.reason);
    }
    Failure::Executable(why)
}

impl Sandbox {
    /// Loads the filter and drops capabilities, in the order the filter needs: without no_new_privs, loading it is
    /// privileged; with it, as late as possible.
    pub(crate) fn enter(&self) -> Result<(), String> {
        let load = || match &self.filter {
            Some(filter) => filter
                .load()
                .map_err(|e| format!("loading the seccomp filter: {e}")),
            None => Ok(()),
        };
        if !self.no_new_privileges {
            load()?;
        }
        if let Some(capabilities) = &self.capabilities {
            capabilities::drop_privileges(capabilities, create_syscall().as_ref())
                .map_err(|e| format!("dropping capabilities: {e}"))?;
        }
        if self.no_new_privileges { load() } else { Ok(()) }
    }
}

impl Executor for Launcher {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.close_workers();
        let process = spec.process().as_ref();
        let name = process
            .and_then(|p| p.args().as_ref())
            .and_then(|a| a.first())
            .map_or("", String::as_str);
        let envs = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
        let found = match &self.runner {
            None => find_program(name, search_path(envs)),
            // It is there by number; its libraries are found so, too.
            Some(_) if Path::new("/proc/self/fd").exists() => Ok(name.into()),
            Some(_) => Err(CannotExecute::new(
                name,
                ExecFailure::Other,
                "what runs it needs /proc mounted in the container",
            )),
        };
        match found {
            Ok(program) => {
                self.program.replace(Some(program));
                Ok(())
            }
            Err(why) => Err(ExecutorValidationError::ArgValidationError(why.marked())),
        }
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // Given to execve as they are: this process's own environment need not change.
        let mut envs: Vec<_> = envs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        envs.sort();
        self.envs.replace(envs);
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        match self.launch(spec) {
            Ok(never) => match never {},
            Err(reason) => {
                self.report(reason.as_bytes());
                Err(ExecutorError::Other(reason))
            }
        }
    }
}

/// Gives the terminal its size before the program can ask for it (`process.consoleSize`, which libcontainer ignores).
pub(crate) fn set_console_size(terminal: &impl AsFd, process: &Process) {
    let Some(size) = process.console_size() else {
        return;
    };
    let characters = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let size = rustix::termios::Winsize {
        ws_row: characters(size.height()),
        ws_col: characters(size.width()),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A program that finds no size takes 80x24: no reason not to run it.
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

/// Where programs are looked for; of several the last one is meant, as in the map libcontainer makes of an environment.
pub(crate) fn search_path(environment: &[String]) -> &str {
    let given = environment.iter().rev().find_map(|v| v.strip_prefix("PATH="));
    given.unwrap_or(DEFAULT_PATH)
}

/// As execvp finds it, but saying why not.
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
            .map_err(|e| CannotExecute::because(name, &e));
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
        Some(e) => CannotExecute::because(name, &e),
        None => CannotExecute::new(name, ExecFailure::NotFound, "executable file not found in $PATH"),
    })
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

/// Returns only when it failed.
#[allow(
    unsafe_code,
    reason = "rustix keeps execve in its experimental runtime module"
)]
fn execve(path: &CString, argv: &[CString], envp: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: all strings are NUL-terminated and alive, and both arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
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

    #[test]
    fn survives_libcontainers_wrapping() {
        let why = CannotExecute::new("a\u{2}\"b", ExecFailure::Denied, "no");
        assert_eq!(
            CannotExecute::find(&format!("failed: {}. more", why.marked())),
            Some(why)
        );
        assert_eq!(CannotExecute::find("failed"), None);
    }
}
