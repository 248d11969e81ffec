//! From a file to a program that can be started.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wasmtime::{Module, component::Component};

use crate::{
    LoadError, Metering,
    cache::{Cache, sha256},
    compiler::{self, Compiler, Kind},
    engine::{self, Allocation, Running},
    error::one_line,
    limits::{COMPILE_MEMORY, COMPILE_TIMEOUT, MAX_WASM_MODULE_SIZE},
};

/// How WebAssembly begins.
const MAGIC: &[u8] = b"\0asm";

/// Loads programs: compiled once, then found in the cache.
///
/// Cloning is cheap; clones share the programs in memory. After [`prepare`](Self::prepare) the
/// process that runs the program does not need to start a compiler.
#[derive(Debug, Clone)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    compiler: Compiler,
    /// One compiler at a time, which uses all processors.
    compiling: tokio::sync::Mutex<()>,
    programs: Mutex<HashMap<(String, Allocation), Program>>,
}

/// Configures a [`Loader`].
#[derive(Debug)]
pub struct LoaderBuilder {
    cache: PathBuf,
    compiler: Compiler,
}

/// What a program offers, and so how it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// A core module of WASI preview 1: its `_start` is called.
    Preview1,
    /// A component that exports `wasi:cli/run` 0.2.
    Command,
    /// A component that exports `wasi:http/incoming-handler` 0.2: it answers requests.
    HttpProxy,
}

/// Compiled code, and the engine it is for.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) code: Code,
    pub(crate) running: &'static Running,
}

#[derive(Debug, Clone)]
pub(crate) enum Code {
    Module(Module),
    Component(Component),
}

impl Loader {
    /// A loader whose compiled programs are kept in `cache`, a directory that only this user may
    /// write to; it is created when needed.
    #[must_use]
    pub fn builder(cache: PathBuf) -> LoaderBuilder {
        LoaderBuilder {
            cache,
            compiler: Compiler {
                helper: compiler::own_binary(),
                timeout: COMPILE_TIMEOUT,
                memory: COMPILE_MEMORY,
            },
        }
    }

    /// Compiles the program in the file at `path` for `metering` if needed; returns its kind.
    ///
    /// # Errors
    /// [`LoadError`], in one line, if it is not a program this runtime starts.
    pub async fn prepare(&self, path: &Path, metering: Metering) -> Result<World, LoadError> {
        let file = File::open(path).map_err(LoadError::io(format!("opening {}", path.display())))?;
        let program = self.load(file, metering, Allocation::OnDemand).await?;
        // Linking finds what is wrong with it early.
        program.link(false)?;
        program.world()
    }

    /// The program in `file`.
    pub(crate) async fn load(
        &self,
        file: File,
        metering: Metering,
        allocation: Allocation,
    ) -> Result<Program, LoadError> {
        let (_, _, program) = self.load_known(file, metering, allocation).await?;
        Ok(program)
    }

    /// The program in `file`, what it is, and its machine code: for another process to run.
    #[cfg(target_os = "linux")]
    pub(crate) async fn machine_code(
        &self,
        file: File,
        metering: Metering,
    ) -> Result<(Kind, Program, File), LoadError> {
        let (kind, key, program) = self.load_known(file, metering, Allocation::OnDemand).await?;
        let code = self.shared.cache.get(&key)?.ok_or_else(|| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            LoadError::io("finding the compiled program again")(gone)
        })?;
        Ok((kind, program, code))
    }

    /// What the program is, its key in the cache, and itself.
    async fn load_known(
        &self,
        mut file: File,
        metering: Metering,
        allocation: Allocation,
    ) -> Result<(Kind, String, Program), LoadError> {
        let kind = examine(&mut file)?;
        let key = key(&mut file, metering)?;
        let known = (key.clone(), allocation);
        let loaded = self.programs().get(&known).cloned();
        if let Some(program) = loaded {
            return Ok((kind, key, program));
        }
        let program = self.load_code(file, kind, &key, metering, allocation).await?;
        self.programs().insert(known, program.clone());
        Ok((kind, key, program))
    }

    async fn load_code(
        &self,
        mut file: File,
        kind: Kind,
        key: &str,
        metering: Metering,
        allocation: Allocation,
    ) -> Result<Program, LoadError> {
        let Shared {
            cache,
            compiler,
            compiling,
            ..
        } = &*self.shared;
        let cached = || -> Result<Option<Program>, LoadError> {
            let Some(code) = cache.get(key)? else {
                return Ok(None);
            };
            let program = deserialize(code, kind, metering, allocation);
            Ok(program
                .inspect_err(
                    |error| tracing::warn!(key, %error, "a compiled program is not usable and is made again"),
                )
                .ok())
        };
        if let Some(program) = cached()? {
            return Ok(program);
        }
        let _one = compiling.lock().await;
        // Another process may have compiled the same.
        if let Some(program) = cached()? {
            return Ok(program);
        }
        let code = cache.temporary()?;
        let io = LoadError::io("handing the program to the compiler");
        let output = code
            .reopen()
            .and_then(|output| file.rewind().map(|()| output))
            .map_err(io)?;
        compiler.run(file, output, kind, metering).await?;
        let open = code
            .reopen()
            .map_err(LoadError::io("opening the compiled program"))?;
        let program = deserialize(open, kind, metering, allocation)?;
        cache.put(key, code)?;
        Ok(program)
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Allocation), Program>> {
        self.shared
            .programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoaderBuilder {
    /// The binary compilers are started from, whose `main` begins with
    /// [`run_compiler_if_asked`](crate::run_compiler_if_asked). Default: this process's own.
    #[must_use]
    pub fn helper(mut self, helper: PathBuf) -> Self {
        self.compiler.helper = helper;
        self
    }

    /// How long a compilation may take. Default: [`COMPILE_TIMEOUT`].
    #[must_use]
    pub fn compile_timeout(mut self, timeout: Duration) -> Self {
        self.compiler.timeout = timeout;
        self
    }

    /// The address space of a compilation, where limited. Default: [`COMPILE_MEMORY`].
    #[must_use]
    pub fn compile_memory(mut self, bytes: u64) -> Self {
        self.compiler.memory = bytes;
        self
    }

    /// The loader. Nothing is touched before it loads something.
    #[must_use]
    pub fn build(self) -> Loader {
        Loader {
            shared: Arc::new(Shared {
                cache: Cache::new(self.cache),
                compiler: self.compiler,
                compiling: tokio::sync::Mutex::default(),
                programs: Mutex::default(),
            }),
        }
    }
}

/// Loads bytes like a file, but without a file, a cache or another process: for fuzzing.
///
/// # Errors
/// As [`Loader::prepare`].
#[doc(hidden)]
pub fn load_in_process(wasm: &[u8], metering: Metering) -> Result<World, LoadError> {
    let kind = kind(wasm.get(..8).unwrap_or(wasm))?;
    let engine = engine::compiling(metering)?;
    let code = match kind {
        Kind::Module => engine.precompile_module(wasm),
        Kind::Component => engine.precompile_component(wasm),
    };
    let code = code.map_err(|e| LoadError::Invalid(one_line(&e)))?;
    let io = LoadError::io("keeping machine code");
    let mut file = tempfile::tempfile()
        .and_then(|mut file| io::Write::write_all(&mut file, &code).map(|()| file))
        .map_err(io)?;
    file.rewind().map_err(LoadError::io("keeping machine code"))?;
    let program = deserialize(file, kind, metering, Allocation::OnDemand)?;
    program.link(true)?;
    program.world()
}

/// Whether a file begins as WebAssembly does.
#[cfg(target_os = "linux")]
pub(crate) fn begins_as_wasm(file: &mut File) -> Result<bool, LoadError> {
    let mut head = Vec::with_capacity(4);
    file.take(4)
        .read_to_end(&mut head)
        .map_err(LoadError::io("reading it"))?;
    Ok(head == MAGIC)
}

/// What kind of binary the file is; its size is checked before anything is read.
fn examine(file: &mut File) -> Result<Kind, LoadError> {
    let metadata = file.metadata().map_err(LoadError::io("looking at it"))?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile);
    }
    if metadata.len() > MAX_WASM_MODULE_SIZE {
        return Err(LoadError::TooLarge(metadata.len()));
    }
    let mut head = Vec::with_capacity(8);
    // A file that was loaded before stands at its end.
    file.rewind().map_err(LoadError::io("reading it"))?;
    file.take(8)
        .read_to_end(&mut head)
        .map_err(LoadError::io("reading it"))?;
    kind(&head)
}

/// What the first 8 bytes of a file say it is.
fn kind(head: &[u8]) -> Result<Kind, LoadError> {
    if head.starts_with(b"\x7fELF") {
        return Err(LoadError::Precompiled);
    }
    if !head.starts_with(&MAGIC[..head.len().min(4)]) {
        return Err(LoadError::NotWasm);
    }
    match head.get(4..8) {
        None => Err(LoadError::Truncated(head.len() as u64)),
        Some([1, 0, 0, 0]) => Ok(Kind::Module),
        Some([0x0d, 0, 1, 0]) => Ok(Kind::Component),
        Some(version) => Err(LoadError::Invalid(format!(
            "WebAssembly version {} is unknown",
            hex::encode(version)
        ))),
    }
}

/// The name of the program's machine code in the cache.
fn key(file: &mut File, metering: Metering) -> Result<String, LoadError> {
    let hash = file
        .rewind()
        .and_then(|()| sha256(file.take(MAX_WASM_MODULE_SIZE)))
        .map_err(LoadError::io("reading it"))?;
    Ok(format!("{hash}-{}", engine::compatibility(metering)?))
}

/// Maps machine code that is known to be ours.
#[allow(
    unsafe_code,
    reason = "wasmtime takes machine code on trust; cache and compiler are what it rests on"
)]
pub(crate) fn deserialize(
    mut code: File,
    kind: Kind,
    metering: Metering,
    allocation: Allocation,
) -> Result<Program, LoadError> {
    let running = engine::running(metering, allocation)?;
    let engine = &running.engine;
    // Safe for both: the file was written by our own compiler process and has not changed since. It
    // is the compiler's open temporary file, or comes from the cache, which checked owner, mode and
    // hash; and no one else may write to the directory or the file while it is mapped.
    let code = match kind {
        // SAFETY: as above.
        Kind::Module => unsafe { Module::deserialize_open_file(engine, code) }.map(Code::Module),
        Kind::Component => {
            // wasmtime maps components only by name; what was verified is this open file.
            let mut bytes = Vec::new();
            code.read_to_end(&mut bytes)
                .map_err(LoadError::io("reading a compiled program"))?;
            // SAFETY: as above.
            unsafe { Component::deserialize(engine, bytes) }.map(Code::Component)
        }
    };
    code.map(|code| Program { code, running })
        .map_err(|e| LoadError::engine(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_modules_components_and_others_apart() {
        assert_eq!(kind(b"\0asm\x01\0\0\0").unwrap(), Kind::Module);
        assert_eq!(kind(b"\0asm\x0d\0\x01\0").unwrap(), Kind::Component);
        assert!(matches!(
            kind(b"\x7fELF\x02\x01\x01\0"),
            Err(LoadError::Precompiled)
        ));
        assert!(matches!(kind(b"#!/bin/s"), Err(LoadError::NotWasm)));
        assert!(matches!(kind(b""), Err(LoadError::Truncated(0))));
        assert!(matches!(kind(b"\0as"), Err(LoadError::Truncated(3))));
        assert!(matches!(kind(b"\0asm\x01\0"), Err(LoadError::Truncated(6))));
        assert!(matches!(kind(b"\0asm\x02\0\0\0"), Err(LoadError::Invalid(_))));
    }

    #[test]
    fn the_size_is_checked_before_anything_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(MAX_WASM_MODULE_SIZE + 1).unwrap();
        assert!(matches!(examine(&mut file), Err(LoadError::TooLarge(_))));
        file.set_len(MAX_WASM_MODULE_SIZE).unwrap();
        assert!(matches!(examine(&mut file), Err(LoadError::NotWasm)));
    }
}
