//! What a container uses, and the limits wasmtime asks about.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use magik_oci::ExitReason;
use wasmtime::ResourceLimiter;

use crate::limits::{MAX_WASM_INSTANCES, MAX_WASM_MEMORIES, MAX_WASM_TABLE_ELEMENTS, MAX_WASM_TABLES};

/// A limit that was met; a program is trapped with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct LimitReached {
    pub(crate) reason: ExitReason,
    message: String,
}

/// What a container uses. Read from outside while it runs.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    memory: AtomicU64,
    peak: AtomicU64,
    /// Bytes; changed by `update`.
    limit: AtomicU64,
    /// Fuel of programs that have ended.
    fuel: AtomicU64,
    /// How often those that have not ended yielded.
    pub(crate) yields: Arc<AtomicU64>,
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    running: Vec<u32>,
    /// Nanoseconds of processor time of those that have ended.
    ended: u64,
}

impl Usage {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: AtomicU64::new(limit),
            ..Self::default()
        }
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// A program ended that had used so much fuel.
    pub(crate) fn ended(&self, fuel: u64) {
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
    }

    /// Fuel used: exact after the end, before it up to the last yield.
    pub(crate) fn fuel(&self) -> u64 {
        let running = self
            .yields
            .load(Ordering::Relaxed)
            .saturating_mul(crate::control::YIELD_FUEL);
        self.fuel.load(Ordering::Relaxed).saturating_add(running)
    }

    /// The calling thread works for the container from now on.
    pub(crate) fn thread_begins(&self) {
        #[cfg(target_os = "linux")]
        self.threads()
            .running
            .push(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
    }

    /// The calling thread's work for the container is over.
    pub(crate) fn thread_ends(&self) {
        #[cfg(target_os = "linux")]
        {
            let me = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            let mut threads = self.threads();
            threads.running.retain(|t| *t != me);
            threads.ended += cpu_time(me);
        }
    }

    /// Processor time of the container's threads in nanoseconds; 0 where the system does not tell.
    pub(crate) fn cpu(&self) -> u64 {
        let threads = self.threads();
        threads.ended + threads.running.iter().map(|t| cpu_time(*t)).sum::<u64>()
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many bytes more; the error is the limit they would exceed.
    fn grow(&self, bytes: u64) -> Result<(), u64> {
        let now = self
            .memory
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        let limit = self.limit();
        if now > limit {
            self.memory.fetch_sub(bytes, Ordering::Relaxed);
            return Err(limit);
        }
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }
}

/// What a thread of this process has run for, in nanoseconds (proc(5), `schedstat`).
#[cfg(target_os = "linux")]
fn cpu_time(thread: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn cpu_time(_thread: u32) -> u64 {
    0
}

/// One store's share of its container's usage; what it had is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Limiter {
    usage: Arc<Usage>,
    memory: u64,
    /// Elements of all its tables.
    elements: usize,
}

impl Limiter {
    pub(crate) fn new(usage: Arc<Usage>) -> Self {
        Self {
            usage,
            memory: 0,
            elements: 0,
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.usage.memory.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A module's own maximum is refused as WebAssembly says. The container's limit ends the
        // program, as the kernel does: few handle a failed allocation, and some use address 0.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current) as u64;
        if let Err(limit) = self.usage.grow(more) {
            return Err(LimitReached {
                reason: ExitReason::MemoryLimit,
                message: format!("it wanted {desired} bytes of memory, and its limit is {limit}"),
            }
            .into());
        }
        self.memory += more;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current);
        if self.elements.saturating_add(more) > MAX_WASM_TABLE_ELEMENTS {
            return Err(LimitReached {
                reason: ExitReason::TableLimit,
                message: format!(
                    "it wanted {desired} table elements, and its limit is {MAX_WASM_TABLE_ELEMENTS}"
                ),
            }
            .into());
        }
        self.elements += more;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_WASM_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_WASM_TABLES
    }

    fn memories(&self) -> usize {
        MAX_WASM_MEMORIES
    }
}
