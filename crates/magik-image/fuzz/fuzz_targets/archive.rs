//! Any bytes are refused as an archive, or are one whose entries stay below the root. Checksums are not looked at.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = magik_image::fuzzing::archive(bytes);
});
