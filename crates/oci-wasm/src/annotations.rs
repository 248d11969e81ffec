//! The annotations of a bundle (or pod) that say what a WebAssembly container may do.

/// Fuel: a number of units, or `off` (also `0`) for none. Without fuel only epochs interrupt the
/// container, which costs less. Default: [`DEFAULT_WASM_FUEL`](crate::limits::DEFAULT_WASM_FUEL).
pub const FUEL: &str = "magikrun.dev/wasm.fuel";

/// Wall-clock limit of the container in seconds, from its start. Default: none.
pub const DEADLINE: &str = "magikrun.dev/wasm.deadline-seconds";

/// Addresses the container may listen on, separated by commas: `[tcp:|udp:][ADDRESS:]PORT`; the
/// default address is `0.0.0.0`. Other containers of the runtime may connect to these ports over
/// loopback. In a preview 1 module, `LISTEN_FDS` holds the number of listening sockets and
/// `LISTEN_FDS_START` the first. Default: none.
pub const LISTEN: &str = "magikrun.dev/wasm.listen";

/// Where the container may connect or send to, with commas: `[tcp:|udp:]HOST:PORT`. HOST: address,
/// network (`10.0.0.0/8`), or a name, looked up at creation; PORT may be `*`. Default: nowhere.
pub const ALLOW_OUTBOUND: &str = "magikrun.dev/wasm.allow-outbound";

/// How many requests a `wasi:http/proxy` container answers at a time. Default:
/// [`DEFAULT_HTTP_CONCURRENCY`](crate::limits::DEFAULT_HTTP_CONCURRENCY).
pub const HTTP_CONCURRENCY: &str = "magikrun.dev/wasm.http-concurrency";
