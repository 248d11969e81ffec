//! wasmtime's configuration, in one place, and the engines a process shares.

use std::{
    hash::{Hash, Hasher},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::{LoadError, limits::MAX_WASM_STACK, program::Linkers};

/// Stack of the fiber a program runs on: its own share and as much again for what it calls in the host.
const FIBER_STACK: usize = 2 * MAX_WASM_STACK;

/// Slots of a pool that serves requests: no container answers more at a time.
pub(crate) const POOL_SLOTS: u32 = 256;

/// The largest memory of a pooled instance, in bytes.
pub(crate) const POOL_MEMORY: usize = 4 * 1024 * 1024 * 1024;

/// How a program is interrupted; decided when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metering {
    /// Every instruction is counted: the program stops when its fuel is used up, and can be interrupted on the way.
    Fuel,
    /// Loops and calls look at a clock, which moves when somebody is to be interrupted.
    Epochs,
}

impl Metering {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fuel => "fuel",
            Self::Epochs => "epochs",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Fuel, Self::Epochs].into_iter().find(|m| m.name() == name)
    }
}

/// Where instances come from; makes no difference to compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Allocation {
    /// Memory is mapped for each: best for a program that is started once.
    OnDemand,
    /// Memory is kept for the next: best for a program that is started for every request.
    Pooled,
}

/// What compiled code depends on, and what guards it while it runs.
fn config(metering: Metering) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(metering == Metering::Fuel)
        .epoch_interruption(metering == Metering::Epochs)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(FIBER_STACK)
        // A guest's stack is not the next guest's to read, should the compiler ever be wrong about an uninitialised slot.
        .async_stack_zeroing(true)
        // The whole of 32 bits is reserved and guarded, so that accesses need no check and memories never move.
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .guard_before_linear_memory(true)
        .memory_init_cow(true)
        .concurrency_support(false)
        // No backtraces are shown, so no tables for them are kept.
        .generate_address_map(false)
        .native_unwind_info(false);
    config
}

/// An engine that runs, and what programs are linked with; it has no compiler in it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) linkers: Linkers,
}

/// The one engine of its kind in this process.
pub(crate) fn running(metering: Metering, allocation: Allocation) -> Result<&'static Running, LoadError> {
    static ENGINES: [OnceLock<Running>; 4] = [const { OnceLock::new() }; 4];
    let slot = match (metering, allocation) {
        (Metering::Fuel, Allocation::OnDemand) => 0,
        (Metering::Fuel, Allocation::Pooled) => 1,
        (Metering::Epochs, Allocation::OnDemand) => 2,
        (Metering::Epochs, Allocation::Pooled) => 3,
    };
    if let Some(engine) = ENGINES[slot].get() {
        return Ok(engine);
    }
    let mut config = config(metering);
    config.enable_compiler(false);
    if allocation == Allocation::Pooled {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
    }
    let engine = Engine::new(&config).map_err(|e| LoadError::engine(&e))?;
    Ok(ENGINES[slot].get_or_init(|| Running {
        engine,
        linkers: Linkers::default(),
    }))
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(POOL_SLOTS)
        .total_core_instances(POOL_SLOTS * 4)
        .total_memories(POOL_SLOTS)
        .total_tables(POOL_SLOTS * 4)
        .total_stacks(POOL_SLOTS)
        .max_memory_size(POOL_MEMORY)
        // What stays mapped between two requests; the rest goes back to the system.
        .linear_memory_keep_resident(256 * 1024)
        .table_keep_resident(16 * 1024)
        .async_stack_keep_resident(64 * 1024)
        .max_unused_warm_slots(16);
    pool
}

/// An engine that compiles; it runs nothing.
pub(crate) fn compiling(metering: Metering) -> Result<Engine, LoadError> {
    let mut config = config(metering);
    config
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(true);
    Engine::new(&config).map_err(|e| LoadError::engine(&e))
}

/// What tells compiled code of one engine from that of another: wasmtime's version and settings, and the processor.
pub(crate) fn compatibility(metering: Metering) -> Result<&'static str, LoadError> {
    static HASHES: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
    let slot = &HASHES[usize::from(metering == Metering::Epochs)];
    if let Some(hash) = slot.get() {
        return Ok(hash);
    }
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let engine = compiling(metering)?;
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    let hash = hex::encode(&sha.0.finalize()[..8]);
    Ok(slot.get_or_init(|| hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_engines_take_what_compiling_engines_make() {
        for metering in [Metering::Fuel, Metering::Epochs] {
            let code = compiling(metering)
                .unwrap()
                .precompile_module(b"\0asm\x01\0\0\0")
                .unwrap();
            for allocation in [Allocation::OnDemand, Allocation::Pooled] {
                let engine = &running(metering, allocation).unwrap().engine;
                // SAFETY: compiled by wasmtime just above.
                #[allow(unsafe_code)]
                let module = unsafe { wasmtime::Module::deserialize(engine, &code) };
                module.unwrap();
            }
        }
    }

    #[test]
    fn compiled_code_is_told_apart_by_metering() {
        assert_ne!(
            compatibility(Metering::Fuel).unwrap(),
            compatibility(Metering::Epochs).unwrap()
        );
    }
}
