//! WebAssembly containers as an [`OciRuntime`](magik_oci::OciRuntime), over wasmtime.
//!
//! [`WasmtimeRuntime`] keeps its containers in its own process: there is no process per container,
//! and other processes cannot start or delete them. A pod is one process with one runtime in it.
//!
//! - **Programs** ([`Loader`]): core modules of WASI preview 1 and components of preview 2,
//!   `wasi:cli/command` or `wasi:http/proxy`. wasmtime 48 calls its preview 3 "experimental,
//!   unstable and incomplete" and gives it no security fixes, so it is not here.
//! - **Compilation**: a process of its own compiles, with limits on time and memory, which wasmtime
//!   does not have. Only this user can write its cache; other machine code is refused. A binary
//!   with this crate calls [`run_compiler_if_asked`] first in `main`.
//! - **Access**: a program reads and writes below its root and mounts (unless read-only), uses its
//!   three streams, clocks, random numbers, and the network that its [annotations] list. No more.
//! - **Limits**: fuel, wall-clock time, memory, tables, instances and stack ([limits]). Each ends
//!   the program with an [`ExitReason`](magik_oci::ExitReason) and a last line on standard error.
//!
//! A native container can also run a program: another runtime makes the container, and a process in
//! it that calls [`run_sandboxed_if_asked`] runs the program (Linux).
//!
//! Each container has a thread of its own, so a program that computes holds up nobody but itself.
//! Fuel (on by default) makes code run about 1.4 times as long, epochs (with fuel switched off)
//! about 1.2 times.
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
mod ended;
mod engine;
mod error;
mod files;
mod host;
mod http;
mod limiter;
pub mod limits;
mod linkers;
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
pub use runtime::WasmtimeRuntime;
#[cfg(target_os = "linux")]
pub use sandboxed::{CANNOT_RUN, SandboxError, run_sandboxed_if_asked};
