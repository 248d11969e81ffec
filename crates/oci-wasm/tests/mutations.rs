//! Modules with a few bytes changed: each loads or is refused in one line. The same for every run.
//! `fuzz/` is the endless form of it.

use std::time::{Duration, Instant};

use oci_wasm::{LoadError, Metering, load_in_process};

/// At most so many, and for so long.
const MUTATIONS: usize = 3000;
const TIME: Duration = Duration::from_secs(20);

const SEEDS: &[&str] = &[
    r#"(module
        (type $t (func (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1 2)
        (table 4 4 funcref)
        (global $g (mut i32) (i32.const 7))
        (elem (i32.const 0) $f $f)
        (data (i32.const 8) "hello, world\n")
        (func $f (type $t) (local i64 v128)
            (block $b (loop $l (br_if $b (i32.eqz (local.get 0)))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br $l)))
            (call_indirect (type $t) (local.get 0) (local.get 1) (i32.const 1)))
        (func (export "_start")
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 2))
            (drop (call $f (i32.const 3) (global.get $g)))
            (call $exit (i32.const 0))))"#,
    r#"(component
        (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
        (core module $m
            (import "exit" "exit" (func (param i32)))
            (memory (export "memory") 1)
            (func (export "run") (result i32) (call 0 (i32.const 0)) (i32.const 0)))
        (core func $lowered (canon lower (func $exit "exit")))
        (core instance $i (instantiate $m (with "exit" (instance (export "exit" (func $lowered))))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (component $wrap (import "run" (func $r (result (result)))) (export "run" (func $r)))
        (instance $world (instantiate $wrap (with "run" (func $run))))
        (export "wasi:cli/run@0.2.0" (instance $world)))"#,
];

/// A small generator of numbers (xorshift64*): what matters is that they are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as usize;
        high % end
    }
}

fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut wasm = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = 8 + random.below(wasm.len() - 8);
        match random.below(5) {
            0 => wasm[at] ^= 1 << random.below(8),
            1 => wasm[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => wasm.insert(at, u8::try_from(random.below(256)).unwrap()),
            3 => drop(wasm.remove(at)),
            _ => wasm.truncate(at.max(9)),
        }
        if wasm.len() < 10 {
            break;
        }
    }
    wasm
}

#[test]
fn changed_modules_load_or_are_refused_in_one_line() {
    let began = Instant::now();
    let mut random = Random(0x6d61_6769_6b72_756e);
    let seeds: Vec<Vec<u8>> = SEEDS.iter().map(|s| wat::parse_str(s).unwrap()).collect();
    for seed in &seeds {
        load_in_process(seed, Metering::Fuel).unwrap();
    }
    let mut loaded = 0;
    for i in 0..MUTATIONS {
        if began.elapsed() > TIME {
            break;
        }
        let wasm = mutate(&seeds[i % seeds.len()], &mut random);
        match load_in_process(&wasm, Metering::Fuel) {
            Ok(_) => loaded += 1,
            Err(error) => {
                let message = error.to_string();
                assert!(!message.contains('\n') && message.len() < 1500, "{message:?}");
                assert!(!matches!(error, LoadError::Io { .. }), "{message}");
            }
        }
    }
    assert!(loaded > 0, "some are programs still");
}
