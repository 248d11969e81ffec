//! Compilation in a process of its own.
//!
//! wasmtime cannot be stopped while it compiles, has no memory limit, and compiles untrusted code.
//! So a helper (usually this same binary) is started with the module as its standard input and the
//! result's file as its standard output. It limits its memory, and is killed after a timeout.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use crate::{
    LoadError,
    engine::{self, Metering},
    error::one_line,
    limits::MAX_WASM_MODULE_SIZE,
};

/// The first argument of a compiler process.
const ASKED: &str = "magikrun-wasm-compile";

/// The exit status of a compiler that says on its standard error why the module is bad.
const INVALID: i32 = 3;

/// The most that is read of what a compiler says.
const LONGEST_MESSAGE: u64 = 4096;

/// How compilers are run.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    pub(crate) helper: PathBuf,
    pub(crate) timeout: Duration,
    /// Address space in bytes.
    pub(crate) memory: u64,
}

/// What kind of binary a file is, by its first 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Module,
    Component,
}

impl Compiler {
    /// Compiles what `input` holds from its start, and writes the machine code to `output`.
    pub(crate) async fn run(
        &self,
        input: File,
        output: File,
        kind: Kind,
        metering: Metering,
    ) -> Result<(), LoadError> {
        let kind = match kind {
            Kind::Module => "module",
            Kind::Component => "component",
        };
        let running = |e| LoadError::io(format!("running the compiler {}", self.helper.display()))(e);
        let mut child = Command::new(&self.helper)
            .arg(ASKED)
            .args([metering.name(), kind, &self.memory.to_string()])
            .env_clear()
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(running)?;
        let stderr = child.stderr.take();
        let talk = async {
            let mut message = Vec::new();
            if let Some(stderr) = stderr {
                // What cannot be read does not matter: the status counts.
                let _ = stderr.take(LONGEST_MESSAGE).read_to_end(&mut message).await;
            }
            (message, child.wait().await)
        };
        let Ok((message, status)) = timeout(self.timeout, talk).await else {
            let _ = child.kill().await;
            return Err(LoadError::CompileTimeout(self.timeout.as_secs()));
        };
        let status = status.map_err(running)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(INVALID) => Err(LoadError::Invalid(
                String::from_utf8_lossy(&message).trim().to_owned(),
            )),
            _ => Err(LoadError::CompilerDied(how(status), self.memory >> 20)),
        }
    }
}

fn how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("signal {signal}");
    }
    status.to_string()
}

/// Compiles and exits, if this process was started to compile; else returns at once.
///
/// Every binary that loads programs calls it first thing in its `main`, unless it names
/// [another helper](crate::LoaderBuilder::helper).
pub fn run_compiler_if_asked() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|a| a != ASKED) {
        return;
    }
    let args: Vec<String> = args.filter_map(|a| a.into_string().ok()).collect();
    let code = match compile(&args) {
        Ok(()) => 0,
        Err(message) => {
            // On failure no reader is left to tell.
            let _ = writeln!(std::io::stderr(), "{message}");
            INVALID
        }
    };
    std::process::exit(code);
}

fn compile(args: &[String]) -> Result<(), String> {
    let [metering, kind, memory] = args else {
        return Err("wrong arguments".to_owned());
    };
    let metering = Metering::from_name(metering).ok_or("wrong metering")?;
    confine(memory.parse().map_err(|_| "wrong memory")?);
    let mut wasm = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_WASM_MODULE_SIZE + 1)
        .read_to_end(&mut wasm)
        .map_err(|e| format!("reading it: {e}"))?;
    if wasm.len() as u64 > MAX_WASM_MODULE_SIZE {
        return Err(LoadError::TooLarge(wasm.len() as u64).to_string());
    }
    let engine = engine::compiling(metering).map_err(|e| e.to_string())?;
    let code = match kind.as_str() {
        "component" => engine.precompile_component(&wasm),
        _ => engine.precompile_module(&wasm),
    }
    .map_err(|e| one_line(&e))?;
    std::io::stdout()
        .lock()
        .write_all(&code)
        .map_err(|e| format!("writing the result: {e}"))
}

/// Limits this process's use of the machine. Without such limits the parent still limits the time.
#[cfg(unix)]
fn confine(memory: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let lower = |resource, value: u64| {
        let maximum = getrlimit(resource).maximum.map_or(value, |m| m.min(value));
        let limit = Rlimit {
            current: Some(maximum),
            maximum: Some(maximum),
        };
        // Lowering a limit is always allowed.
        let _ = setrlimit(resource, limit);
    };
    lower(Resource::As, memory);
    lower(Resource::Core, 0);
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_no_new_privs(true);
}

#[cfg(not(unix))]
fn confine(_memory: u64) {}

/// The helper unless another is named: this process's own binary.
pub(crate) fn own_binary() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| Path::new("magikrun").to_owned())
}
