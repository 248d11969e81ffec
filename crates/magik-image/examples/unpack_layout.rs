//! Takes the image of an OCI layout into a store and unpacks it to a directory that does not exist yet.
//!
//! `cargo run -p magik-image --no-default-features --example unpack_layout -- LAYOUT STORE DIRECTORY`
#![allow(clippy::print_stdout, reason = "an example")]

use std::path::PathBuf;

use magik_image::{
    ImageStore,
    layout::{ImportOptions, import_oci_dir},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let layout = arguments.next().ok_or("which layout?")?;
    let store = ImageStore::open(&arguments.next().ok_or("which store?")?)?;
    let directory = arguments.next().ok_or("which directory?")?;

    let image = import_oci_dir(&store, &layout, &ImportOptions::default())?;
    store.unpack_flat(&image, &directory)?;
    let command = image.config.config().as_ref().and_then(|run| run.cmd().as_ref());
    println!("{} runs {:?}", image.name(), command.unwrap_or(&Vec::new()));
    Ok(())
}
