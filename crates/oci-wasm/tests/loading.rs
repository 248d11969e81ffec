//! What is no program, and what becomes of one that is.

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{Host, compiler, loader};
use oci_wasm::{LoadError, Loader, Metering, World, limits::MAX_WASM_MODULE_SIZE};

const MINIMAL: &str = r#"(module (func (export "_start")))"#;

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A file with these bytes.
fn file(host: &Host, bytes: &[u8]) -> PathBuf {
    let path = host.path("module");
    fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn each_kind_of_bad_module_is_refused_in_its_own_words() {
    let host = Host::new();
    let module = wat(MINIMAL);
    let tables = format!(
        r#"(module {} (func (export "_start")))"#,
        "(table 1 funcref)".repeat(10_000)
    );
    let mut elf = fs::read(compiler()).unwrap();
    elf.truncate(4096);
    for (module, says) in [
        (&b""[..], "cut off after 0 bytes"),
        (&module[..6], "cut off after 6 bytes"),
        (&module[..module.len() - 1], "cannot be compiled"),
        (b"#!/bin/sh\n", "not WebAssembly"),
        (b"\0asm\x02\0\0\0", "version 02000000 is unknown"),
        (b"\0asm\x01\0\0\0\xff\xff\xff\xff\xff\xff", "cannot be compiled"),
        (&elf, "precompiled programs from outside are refused"),
        (&wat("(module)"), "has no _start"),
        (
            &wat(r#"(module (func (export "_initialize")))"#),
            "a WASI reactor",
        ),
        (
            &wat(r#"(module (func (export "_start") (param i32)))"#),
            "its _start is not a function without",
        ),
        (
            &wat(
                r#"(module (import "env" "abc" (func)) (import "wasi_snapshot_preview1" "sock_open" (func))
                (import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (func (export "_start")))"#,
            ),
            "does not have: env::abc, wasi_snapshot_preview1::sock_open",
        ),
        (
            &wat(
                r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func)) (func (export "_start")))"#,
            ),
            "incompatible",
        ),
        (
            &wat(r#"(module (import "wasi_unstable" "fd_write" (func)) (func (export "_start")))"#),
            "preview 0",
        ),
        (&wat("(component)"), "has no export of wasi:cli/run or"),
        (
            &wat(r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#),
            "another version of WASI (it exports wasi:cli/run@0.3.0)",
        ),
        (&wat(&tables), "table"),
    ] {
        let message = host.refusal(module).await;
        assert!(message.contains(says), "{says:?} is not in {message:?}");
        assert!(message.len() < 900, "{message}");
    }
}

#[tokio::test]
async fn many_unknown_imports_make_one_bounded_line() {
    let host = Host::new();
    let imports: String = (0..1000)
        .map(|i| format!(r#"(import "env\n" "f{i}" (func))"#))
        .collect();
    let message = host
        .refusal(&wat(&format!(r#"(module {imports} (func (export "_start")))"#)))
        .await;
    assert!(message.contains(r"env\n::f9 and 990 more"), "{message}");
}

#[tokio::test]
async fn a_module_of_257_mib_is_refused_unread() {
    let host = Host::new();
    let path = file(&host, b"\0asm\x01\0\0\0");
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(MAX_WASM_MODULE_SIZE + (1 << 20))
        .unwrap();
    let error = loader().prepare(&path, Metering::Fuel).await.unwrap_err();
    assert!(matches!(error, LoadError::TooLarge(_)), "{error}");
}

#[tokio::test]
async fn only_regular_files_are_programs() {
    let host = Host::new();
    let error = loader()
        .prepare(host.directory.path(), Metering::Fuel)
        .await
        .unwrap_err();
    assert!(matches!(error, LoadError::NotAFile), "{error}");
}

/// A module whose compilation takes long and much: one function of very many calls.
fn bomb() -> Vec<u8> {
    let body = "(local.set 0 (i32.add (local.get 0) (call $f (local.get 0))))".repeat(60_000);
    wat(&format!(
        r#"(module (func $f (param i32) (result i32) (local.get 0))
            (func (param i32) (result i32) {body} (local.get 0)) (func (export "_start")))"#
    ))
}

#[tokio::test]
async fn a_compilation_that_takes_too_long_or_too_much_is_ended() {
    let host = Host::new();
    let path = file(&host, &bomb());
    let builder = || Loader::builder(host.path("cache")).helper(compiler());
    let slow = builder().compile_timeout(Duration::from_millis(300)).build();
    let error = slow.prepare(&path, Metering::Fuel).await.unwrap_err();
    assert!(matches!(error, LoadError::CompileTimeout(_)), "{error}");
    let small = builder().compile_memory(96 << 20).build();
    let error = small.prepare(&path, Metering::Fuel).await.unwrap_err();
    assert!(matches!(error, LoadError::CompilerDied(..)), "{error}");
    assert_eq!(
        fs::read_dir(host.path("cache")).unwrap().count(),
        0,
        "nothing stays"
    );
}

#[tokio::test]
async fn what_was_compiled_is_not_compiled_again() {
    let host = Host::new();
    let path = file(&host, &wat(MINIMAL));
    let cache = host.path("cache");
    let loader = Loader::builder(cache.clone()).helper(compiler()).build();
    assert_eq!(
        loader.prepare(&path, Metering::Fuel).await.unwrap(),
        World::Preview1
    );
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 2);
    // Another process's loader has no compiler and needs none.
    let without = || {
        Loader::builder(cache.clone())
            .helper("/nonexistent".into())
            .build()
    };
    without().prepare(&path, Metering::Fuel).await.unwrap();
    // Other settings are another compilation.
    let error = without().prepare(&path, Metering::Epochs).await.unwrap_err();
    assert!(matches!(error, LoadError::Io { .. }), "{error}");
}

fn machine_code(cache: &Path) -> PathBuf {
    fs::read_dir(cache)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "cwasm"))
        .unwrap()
}

#[tokio::test]
async fn changed_machine_code_is_not_run_but_made_again() {
    let host = Host::new();
    let path = file(&host, &wat(MINIMAL));
    let cache = host.path("cache");
    let fresh = || Loader::builder(cache.clone()).helper(compiler()).build();
    fresh().prepare(&path, Metering::Fuel).await.unwrap();
    let code = machine_code(&cache);
    let good = fs::read(&code).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::set_permissions(&code, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&code, &bad).unwrap();
    fresh().prepare(&path, Metering::Fuel).await.unwrap();
    assert!(fs::read(&code).unwrap() == good, "made again");
}

#[tokio::test]
async fn a_cache_others_may_write_to_is_refused() {
    let host = Host::new();
    let path = file(&host, &wat(MINIMAL));
    let cache = host.path("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let loader = Loader::builder(cache).helper(compiler()).build();
    let error = loader.prepare(&path, Metering::Fuel).await.unwrap_err();
    assert!(matches!(error, LoadError::UnsafeCache { .. }), "{error}");
}
