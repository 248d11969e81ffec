//! Why a program cannot be loaded.

use std::path::PathBuf;

use crate::limits::MAX_WASM_MODULE_SIZE;

/// Why a file is not a program this crate runs; every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is larger than [`MAX_WASM_MODULE_SIZE`].
    #[error("is {0} bytes, at most {MAX_WASM_MODULE_SIZE} are allowed")]
    TooLarge(u64),
    /// It is not a regular file.
    #[error("is not a regular file")]
    NotAFile,
    /// It does not begin as WebAssembly does.
    #[error("is not WebAssembly: it does not begin with the bytes 00 61 73 6d")]
    NotWasm,
    /// It ends before its header does.
    #[error("is cut off after {0} bytes")]
    Truncated(u64),
    /// It is machine code, of wasmtime or of something else; only what was compiled here is run.
    #[error("is machine code (ELF), and precompiled programs from outside are refused: ship the .wasm file")]
    Precompiled,
    /// It was found malformed or too complex when it was compiled.
    #[error("cannot be compiled: {0}")]
    Invalid(String),
    /// Its compilation took too long.
    #[error("cannot be compiled within {0} s")]
    CompileTimeout(u64),
    /// Its compilation needed too much memory, or its compiler died otherwise.
    #[error("cannot be compiled: the compiler ended with {0}; it may use {1} MiB")]
    CompilerDied(String, u64),
    /// It has nothing to start.
    #[error("has no {0}")]
    MissingEntry(&'static str),
    /// It needs what no WASI has, or what this runtime does not give.
    #[error("imports what this runtime does not have: {0}")]
    UnknownImports(String),
    /// It was built for a version of WASI that is not supported.
    #[error("is built for {found}; supported are WASI preview 1 modules and WASI 0.2 components")]
    WrongWasiVersion {
        /// What it asks for.
        found: String,
    },
    /// It needs more from its start on than its container has.
    #[error("needs {needs} bytes of memory to start, and its container has {limit}")]
    NeedsMemory {
        /// What its linear memories have at first, in bytes.
        needs: u64,
        /// The container's limit, in bytes.
        limit: u64,
    },
    /// The cache directory is not safe to use.
    #[error("the cache {path} is not safe to use: {reason}")]
    UnsafeCache {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The compiler process could not be run, or a file could not be read.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, to which path.
        context: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// wasmtime refused its own configuration, or compiled code that it wrote itself.
    #[error("wasmtime: {0}")]
    Engine(String),
}

impl LoadError {
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// wasmtime's errors as one line: its causes follow each other, without backtraces.
    pub(crate) fn engine(error: &wasmtime::Error) -> Self {
        Self::Engine(one_line(error))
    }
}

/// A wasmtime error and its causes in one line of bounded length.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    const LONGEST: usize = 500;
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}
