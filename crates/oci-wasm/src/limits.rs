//! What a program may use at most.

use std::time::Duration;

/// The largest module or component in bytes; larger files are refused before they are read.
pub const MAX_WASM_MODULE_SIZE: u64 = 256 * 1024 * 1024;

/// A container's fuel without an [annotation](crate::annotations::FUEL); roughly one unit for each
/// instruction. In a `wasi:http/proxy` container each request has it.
pub const DEFAULT_WASM_FUEL: u64 = 1_000_000_000;

/// The most memory a container has whose bundle names no limit: what 32 bits can address.
pub const DEFAULT_WASM_MEMORY: u64 = 4 * 1024 * 1024 * 1024;

/// How deep calls may nest, in bytes of machine stack. (C programs keep most of their variables in
/// a second stack in linear memory, whose size their linker chose.)
pub const MAX_WASM_STACK: usize = 1024 * 1024;

/// The most elements all tables of a container have together; each takes 8 bytes or 16.
pub const MAX_WASM_TABLE_ELEMENTS: usize = 1024 * 1024;

/// The most core instances of a container; a component is made of several.
pub const MAX_WASM_INSTANCES: usize = 1000;

/// The most linear memories of a container.
pub const MAX_WASM_MEMORIES: usize = 100;

/// The most tables of a container.
pub const MAX_WASM_TABLES: usize = 1000;

/// How long the compilation of a program may take.
pub const COMPILE_TIMEOUT: Duration = Duration::from_secs(120);

/// The address space a compilation may use, in bytes.
pub const COMPILE_MEMORY: u64 = 4 * 1024 * 1024 * 1024;

/// The most bytes of compiled programs kept in a cache; beyond them the ones used longest ago go.
pub const MAX_CACHE_SIZE: u64 = 2 * 1024 * 1024 * 1024;

/// How many requests a `wasi:http/proxy` container answers at a time unless its
/// [annotation](crate::annotations::HTTP_CONCURRENCY) says otherwise; more wait.
pub const DEFAULT_HTTP_CONCURRENCY: usize = 64;

/// How long one request may take.
pub const HTTP_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
