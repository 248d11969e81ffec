//! The annotations of a bundle (or pod) that say what a WebAssembly container may do.

/// Fuel: a number of units, or `off` (also `0`) for none: the container is then interrupted by epochs alone, which costs it
/// less. Default: [`DEFAULT_WASM_FUEL`](crate::limits::DEFAULT_WASM_FUEL).
pub const FUEL: &str = "magikrun.dev/wasm.fuel";

/// Wall-clock limit of the container in seconds, from its start. Default: none.
pub const DEADLINE: &str = "magikrun.dev/wasm.deadline-seconds";

/// Addresses the container may listen on, separated by commas: `[tcp:|udp:][ADDRESS:]PORT`, the address `0.0.0.0` where
/// none is given. Other containers of the same runtime may connect to these ports over loopback. A preview 1 module
/// finds its listening sockets as the environment variables `LISTEN_FDS` (how many) and `LISTEN_FDS_START` (the first)
/// say. Default: none.
pub const LISTEN: &str = "magikrun.dev/wasm.listen";

/// Where the container may connect or send to, separated by commas: `[tcp:|udp:]HOST:PORT`. The host is an address, a network
/// (`10.0.0.0/8`) or a name, which is looked up when the container is created; the port may be `*`. Default: nowhere.
pub const ALLOW_OUTBOUND: &str = "magikrun.dev/wasm.allow-outbound";

/// How many requests a `wasi:http/proxy` container answers at a time. Default:
/// [`DEFAULT_HTTP_CONCURRENCY`](crate::limits::DEFAULT_HTTP_CONCURRENCY).
pub const HTTP_CONCURRENCY: &str = "magikrun.dev/wasm.http-concurrency";
