//! Puts a file into a store and reads it back by its digest.
//!
//! `cargo run -p magik-cas --example put_and_get -- FILE STORE`
#![allow(clippy::print_stdout, reason = "an example")]

use std::{fs::File, io, path::Path};

use magik_cas::{Algorithm, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("which file?")?;
    let store = Store::open(Path::new(&arguments.next().ok_or("which directory?")?))?;

    // No more than a gibibyte is taken, and nothing is seen in the store before all of it is there.
    let mut writer = store.begin(Algorithm::Sha256, 1 << 30)?;
    io::copy(&mut File::open(file)?, &mut writer)?;
    let blob = writer.finish()?;
    let digest = blob.info().digest;
    blob.publish()?;

    let size = io::copy(&mut store.open_verified(&digest)?, &mut io::sink())?;
    println!("{digest}: {size} bytes");
    Ok(())
}
