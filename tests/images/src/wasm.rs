//! WebAssembly programs, compiled from C with this machine's clang and wasi-libc.
//!
//! What was compiled is kept below the target directory, by a hash of its source and flags, so that it is compiled once
//! however many test processes ask for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Debian's packages that compiling needs.
pub const WASM_PACKAGES: &[&str] = &["clang", "lld", "wasi-libc", "libclang-rt-dev-wasm32"];

/// The program that does whatever a test wants; its first argument says what. See its source.
const TOOL: &str = include_str!("../wasm/tool.c");
const HELLO: &str = include_str!("../wasm/hello.c");
const SHELL: &str = include_str!("../wasm/sh.c");
const SQL: &str = include_str!("../wasm/sql.c");
const PROXY: &str = include_str!("../wasm/proxy.c");
const SOCKET: &str = include_str!("../wasm/socket.c");

/// SQLite without what WASI has not.
const SQLITE_FLAGS: &[&str] = &[
    "-w",
    "-DSQLITE_OS_OTHER=1",
    "-DSQLITE_THREADSAFE=0",
    "-DSQLITE_TEMP_STORE=3",
    "-DSQLITE_OMIT_LOAD_EXTENSION",
    "-DSQLITE_OMIT_WAL",
    "-DSQLITE_OMIT_SHARED_CACHE",
    "-DSQLITE_OMIT_DEPRECATED",
];

/// Why no program can be compiled here, if so: clang cannot link for WASI.
#[must_use]
pub fn wasm_compiler_missing() -> Option<String> {
    hello_wasm()
        .err()
        .map(|error| format!("needs {}: {error:#}", WASM_PACKAGES.join(" ")))
}

/// A module that prints `hello`.
///
/// # Errors
/// It cannot be compiled.
pub fn hello_wasm() -> Result<PathBuf> {
    compile("hello", &[("hello.c", HELLO)], &[], &["-O2"])
}

/// A module that does what its first argument says: `hello`, `exit N`, `cat`, `read FILE`, `serve`, `spin`, …
///
/// # Errors
/// It cannot be compiled.
pub fn tool_wasm() -> Result<PathBuf> {
    compile("tool", &[("tool.c", TOOL)], &[], &["-O1"])
}

/// A module that runs as much of a shell script as tests need: `sh.wasm -c SCRIPT`.
///
/// # Errors
/// It cannot be compiled.
pub fn shell_wasm() -> Result<PathBuf> {
    compile("sh", &[("sh.c", SHELL)], &[], &["-O1", "-Wl,--strip-all"])
}

/// A module that fills a table of SQLite's, in memory or in the file it is given, and prints what it counted.
///
/// # Errors
/// It cannot be compiled, or cargo does not find the source of SQLite.
pub fn sqlite_wasm() -> Result<PathBuf> {
    let source = sqlite_source()?;
    let files = [source.join("sqlite3.c"), source.join("wasm32-wasi-vfs.c")];
    let include = format!("-I{}", source.display());
    let mut flags = vec!["-O1", include.as_str()];
    flags.extend(SQLITE_FLAGS);
    compile("sqlite", &[("sql.c", SQL)], &files, &flags)
}

/// A component of WASI 0.2 (`wasi:cli/command`) made of a module of preview 1 and wasmtime's adapter.
///
/// # Errors
/// The module is not one that can be adapted.
pub fn component(module: &Path) -> Result<PathBuf> {
    let wasm = fs::read(module).with_context(|| format!("reading {}", module.display()))?;
    let name = format!("component-{}", &hex::encode(Sha256::digest(&wasm))[..16]);
    keep(&name, |path| {
        use wasi_preview1_component_adapter_provider as adapter;
        let component = wit_component::ComponentEncoder::default()
            .module(&wasm)?
            .adapter(
                adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                adapter::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
            )?
            .encode()?;
        Ok(fs::write(path, component)?)
    })
}

/// A component of `wasi:http/proxy` that answers with the path it is asked for; `/spin`, `/trap` and `/fetch/AUTHORITY`
/// are special, see its source.
///
/// # Errors
/// It cannot be compiled.
pub fn proxy_wasm() -> Result<PathBuf> {
    component_from_c("proxy", PROXY, "wasi:http/proxy@0.2.12")
}

/// A component of `wasi:cli/command` that succeeds if it may `connect PORT` or `listen PORT` on 127.0.0.1.
///
/// # Errors
/// It cannot be compiled.
pub fn socket_wasm() -> Result<PathBuf> {
    component_from_c("socket", SOCKET, "wasi:cli/command@0.2.12")
}

/// Compiles C that calls the functions of a world directly, as the component model's canonical ABI has them.
fn component_from_c(name: &str, source: &str, world: &str) -> Result<PathBuf> {
    let flags = ["-O2", "-nostdlib", "-Wl,--no-entry"];
    let module = compile(name, &[("main.c", source)], &[], &flags)?;
    let wit = package_directory("wasmtime-wasi-http")?.join("wit");
    let mut wasm = fs::read(&module)?;
    let name = format!("{name}-component-{}", &hex::encode(Sha256::digest(&wasm))[..16]);
    keep(&name, |path| {
        let mut resolve = wit_parser::Resolve::default();
        let (package, _) = resolve.push_dir(&wit)?;
        let world = resolve.select_world(&[package], Some(world))?;
        wit_component::embed_component_metadata(
            &mut wasm,
            &resolve,
            world,
            wit_component::StringEncoding::UTF8,
        )?;
        let component = wit_component::ComponentEncoder::default()
            .module(&wasm)?
            .validate(true)
            .encode()?;
        Ok(fs::write(path, component)?)
    })
}

/// Where cargo keeps the C source of SQLite: of a crate that is a dependency for this alone.
fn sqlite_source() -> Result<PathBuf> {
    Ok(package_directory("libsqlite3-sys")?.join("sqlite3"))
}

/// The source of a dependency.
fn package_directory(name: &str) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("running cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let manifest = packages
        .iter()
        .find(|p| p["name"] == name)
        .and_then(|p| p["manifest_path"].as_str())
        .with_context(|| format!("{name} is not among the packages"))?;
    let directory = Path::new(manifest)
        .parent()
        .context("a manifest has a directory")?;
    Ok(directory.to_owned())
}

fn compile(name: &str, sources: &[(&str, &str)], files: &[PathBuf], flags: &[&str]) -> Result<PathBuf> {
    let mut sha = Sha256::new();
    for part in sources.iter().map(|(_, text)| *text).chain(flags.iter().copied()) {
        sha.update(part);
        sha.update([0]);
    }
    for file in files {
        // A released source does not change under its version, which is in its path.
        sha.update(file.as_os_str().as_encoded_bytes());
    }
    let key = format!("{name}-{}", &hex::encode(sha.finalize())[..16]);
    keep(&key, |path| {
        let mut clang = Command::new("clang");
        clang
            .args(["--target=wasm32-wasi", "-o"])
            .arg(path)
            .args(flags)
            .args(files);
        let directory = path.with_extension("src");
        fs::create_dir(&directory)?;
        for (file, text) in sources {
            let file = directory.join(file);
            fs::write(&file, text)?;
            clang.arg(file);
        }
        let output = clang.output().context("running clang")?;
        fs::remove_dir_all(&directory)?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("clang: {}", message.lines().next().unwrap_or_default());
    })
}

/// The file of that name, made by `make` if it is not there yet; whoever is second waits.
fn keep(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let directory = target.join("wasm-programs");
    fs::create_dir_all(&directory)?;
    let path = directory.join(name).with_extension("wasm");
    if path.exists() {
        return Ok(path);
    }
    let lock = fs::File::create(directory.join(name).with_extension("lock"))?;
    lock.lock()?;
    if !path.exists() {
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        let made = make(&unfinished);
        let _ = fs::remove_dir_all(unfinished.with_extension("src"));
        made.and_then(|()| Ok(fs::rename(&unfinished, &path)?))?;
    }
    Ok(path)
}
