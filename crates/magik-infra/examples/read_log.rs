//! Prints the log of a container, of a pod that runs as of one that is over.
//!
//! `cargo run -p magik-infra --example read_log -- /var/lib/magikrun/pods/ID/logs/CONTAINER.log`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example")]

use std::{io::Write as _, path::PathBuf};

use magik_infra::logs::{LogOptions, LogReader, LogStream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = PathBuf::from(std::env::args_os().nth(1).ok_or("which log?")?);
    let options = LogOptions {
        tail: Some(100),
        ..LogOptions::default()
    };
    let mut log = LogReader::open(&file, options)?;
    while let Some(chunk) = log.next_chunk()? {
        match chunk.stream {
            LogStream::Stdout => std::io::stdout().write_all(&chunk.data)?,
            LogStream::Stderr => std::io::stderr().write_all(&chunk.data)?,
        }
    }
    Ok(())
}
