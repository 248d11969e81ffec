//! Whatever the bytes are, loading them is an error of one line or a program, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_wasm::{Metering, load_in_process};

fuzz_target!(|wasm: &[u8]| {
    if let Err(error) = load_in_process(wasm, Metering::Fuel) {
        assert!(!error.to_string().contains('\n'));
    }
});
