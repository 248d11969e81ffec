//! WebAssembly containers as an [`OciRuntime`](magik_oci::OciRuntime), over wasmtime.
//!
//! [`WasmtimeRuntime`] keeps every container it creates in its own process: there is no process per container, and none
//! that another process could start or delete. A pod is one process with one runtime in it.
//!
//! - **Programs** ([`Loader`]): core modules of WASI preview 1 and components of preview 2, `wasi:cli/command` or
//!   `wasi:http/proxy`. wasmtime 48 calls its preview 3 "experimental, unstable and incomplete" and gives it no security
//!   fixes, so it is not here.
//! - **Compilation** happens in a process of its own with limits on time and memory, because wasmtime can neither cancel it
//!   nor bound it. Its results are kept in a cache that only this user can write; machine code that comes from
//!   anywhere else is refused. A binary that uses this crate calls [`run_compiler_if_asked`] first thing in its `main`.
//! - **What a program may do**: read and write below its root and its mounts (read-only where the bundle says so), use
//!   its three streams, clocks and random numbers, and of the network what its [annotations] list. Nothing else.
//! - **What a program may use**: fuel, wall-clock time, memory, tables, instances and stack ([limits]); every limit ends it
//!   with an [`ExitReason`](magik_oci::ExitReason) and a last line on its standard error that names the limit.
//!
//! A program can also be that of a native container: another runtime makes the container, and a process in it that was started
//! by [`run_sandboxed_if_asked`] runs the program (Linux).
//!
//! Each container has a thread of its own, so a program that computes holds up nobody but itself. Fuel (on by default)
//! makes code run about 1.4 times as long, epochs (with fuel switched off) about 1.2 times.
//!
//! It runs no native programs, and it is no plugin system: a program gets its bundle and what
//! annotations allow, no functions of the caller's. It has run on Linux, and compiles for macOS and
//! Windows.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod annotations;
mod cache;
mod compiler;
mod container;
mod control;
mod engine;
mod error;
mod files;
mod host;
mod http;
mod limiter;
pub mod limits;
mod loader;
mod network;
mod program;
mod runtime;
#[cfg(target_os = "linux")]
mod sandboxed;
mod sockets;
mod spec;
mod stdio;

pub use compiler::run_compiler_if_asked;
pub use engine::Metering;
pub use error::LoadError;
#[doc(hidden)]
pub use loader::load_in_process;
pub use loader::{Loader, LoaderBuilder, World};
pub use magik_oci;
pub use runtime::{WasmtimeRuntime, WasmtimeRuntimeBuilder};
#[cfg(target_os = "linux")]
pub use sandboxed::{CANNOT_RUN, SandboxError, run_sandboxed_if_asked};
