//! wasmtime's configuration, in one place, and the engines a process shares.

use std::{
    hash::{Hash, Hasher},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::{
    LoadError,
    limits::MAX_WASM_STACK,
    linkers::{Linkers, once},
};

/// Stack of a program's fiber: its own part, and as much for its calls into the host.
const FIBER_STACK: usize = 2 * MAX_WASM_STACK;

/// Slots of a pool that serves requests: no container answers more at a time.
pub(crate) const POOL_SLOTS: u32 = 256;

/// The largest memory of a pooled instance, in bytes.
pub(crate) const POOL_MEMORY: usize = 4 * 1024 * 1024 * 1024;

/// How a program is interrupted; decided when it is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metering {
    /// Every instruction is counted: the program stops without fuel, and can be interrupted.
    Fuel,
    /// Loops and calls look at a clock, which moves to interrupt programs.
    Epochs,
}

impl Metering {
    /// That of a container with, or without, a limit of fuel.
    pub(crate) fn of(fuel: Option<u64>) -> Self {
        match fuel {
            Some(_) => Self::Fuel,
            None => Self::Epochs,
        }
    }

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
        // A guest must not read an earlier guest's stack through an uninitialised slot.
        .async_stack_zeroing(true)
        // All 4 GiB are reserved and guarded: no access checks, and memories never move.
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
    static ENGINES: [[OnceLock<Running>; 2]; 2] = [const { [const { OnceLock::new() }; 2] }; 2];
    once(&ENGINES[metering as usize][allocation as usize], || {
        let mut config = config(metering);
        config.enable_compiler(false);
        if allocation == Allocation::Pooled {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        }
        Ok(Running {
            engine: Engine::new(&config)?,
            linkers: Linkers::default(),
        })
    })
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

/// Tells compiled code of engines apart: wasmtime's version and settings, and the processor.
pub(crate) fn compatibility(metering: Metering) -> Result<&'static str, LoadError> {
    static HASHES: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
    let slot = &HASHES[metering as usize];
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

    /// A module that keeps a secret: in its grown memory, in a table, a global and its stack.
    const KEEPER: &str = r#"(module
        (memory (export "memory") 1 1024) (table (export "table") 4 funcref) (global $g (mut i64) (i64.const 0))
        (func $f) (elem declare func $f)
        (func (export "run")
            (drop (memory.grow (i32.const 255)))
            (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const 16777216))
            (table.set (i32.const 1) (ref.func $f))
            (global.set $g (i64.const 42))))"#;
    /// Looks for a secret: returns the number of non-zero bytes, and finds foreign functions.
    const SEEKER: &str = r#"(module
        (memory (export "memory") 1 1024) (table (export "table") 4 funcref) (global $g (mut i64) (i64.const 0))
        (func (export "beyond") (result i32) (i32.load (i32.const 16777212)))
        (func (export "run") (result i32) (local $at i32) (local $found i32)
            (drop (memory.grow (i32.const 511)))
            (loop $next
                (if (i64.ne (i64.load (local.get $at)) (i64.const 0))
                    (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 33554432))))
            (if (i32.eqz (ref.is_null (table.get (i32.const 1))))
                (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
            (if (i64.ne (global.get $g) (i64.const 0))
                (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
            (local.get $found)))"#;

    /// CVE-2026-34988 and its class: what one request leaves behind is not the next one's to find.
    #[tokio::test]
    async fn an_instance_from_the_pool_finds_nothing_of_the_one_before() {
        let metering = Metering::Epochs;
        let engine = &running(metering, Allocation::Pooled).unwrap().engine;
        let module = |text: &str| {
            let code = compiling(metering)
                .unwrap()
                .precompile_module(&wat::parse_str(text).unwrap());
            // SAFETY: compiled by wasmtime just above.
            #[allow(unsafe_code)]
            unsafe { wasmtime::Module::deserialize(engine, code.unwrap()) }.unwrap()
        };
        let instance = async |module: &wasmtime::Module| {
            let mut store = wasmtime::Store::new(engine, ());
            store.set_epoch_deadline(1 << 40);
            let instance = wasmtime::Instance::new_async(&mut store, module, &[])
                .await
                .unwrap();
            (store, instance)
        };
        let (keeper, seeker) = (module(KEEPER), module(SEEKER));
        // All slots but one are taken: the next program gets that one.
        let mut others = Vec::new();
        for _ in 1..POOL_SLOTS {
            others.push(instance(&seeker).await);
        }
        for next in ["the same module", "another module"] {
            let (mut store, kept) = instance(&keeper).await;
            let run = kept.get_typed_func::<(), ()>(&mut store, "run").unwrap();
            run.call_async(&mut store, ()).await.unwrap();
            drop(store);
            if next == "the same module" {
                let (mut store, kept) = instance(&keeper).await;
                let memory = kept.get_memory(&mut store, "memory").unwrap();
                memory.grow_async(&mut store, 511).await.unwrap();
                assert!(memory.data(&store).iter().all(|byte| *byte == 0), "{next}");
                let table = kept.get_table(&mut store, "table").unwrap();
                assert!(
                    table.get(&mut store, 1).unwrap().as_func().unwrap().is_none(),
                    "{next}"
                );
                continue;
            }
            let (mut store, seeking) = instance(&seeker).await;
            let beyond = seeking.get_typed_func::<(), i32>(&mut store, "beyond").unwrap();
            let past = beyond.call_async(&mut store, ()).await.unwrap_err();
            assert_eq!(
                past.downcast_ref(),
                Some(&wasmtime::Trap::MemoryOutOfBounds),
                "{next}"
            );
            let run = seeking.get_typed_func::<(), i32>(&mut store, "run").unwrap();
            assert_eq!(run.call_async(&mut store, ()).await.unwrap(), 0, "{next}");
        }
    }
}
