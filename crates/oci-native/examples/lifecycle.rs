//! Runs a bundle N times from a process with one thread and says how long a life takes.
//!
//! `cargo run --release -p oci-native --example lifecycle -- BUNDLE [N]`
#![allow(clippy::print_stdout, reason = "an example")]

use std::time::{Duration, Instant};

use magik_oci::{CreateOptions, OciRuntime, Stdio};
use oci_native::NativeRuntime;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let bundle = arguments.next().ok_or("which bundle?")?;
    let times: usize = arguments.next().map_or(Ok(20), |n| n.parse())?;
    let root = std::env::temp_dir().join(format!("oci-native-example-{}", std::process::id()));
    let runtime = NativeRuntime::builder(root.clone()).build();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut steps: Vec<[Duration; 4]> = Vec::new();
    for n in 0..times {
        let id = format!("example-{n}").parse()?;
        let step = executor.block_on(async {
            let begin = Instant::now();
            runtime
                .create(&id, bundle.as_ref(), Stdio::default(), CreateOptions::default())
                .await?;
            let created = Instant::now();
            runtime.start(&id).await?;
            let started = Instant::now();
            runtime.wait(&id).await?;
            let ended = Instant::now();
            runtime.delete(&id, false).await?;
            Ok::<_, magik_oci::Error>([
                created - begin,
                started - created,
                ended - started,
                ended.elapsed(),
            ])
        })?;
        steps.push(step);
    }
    for (i, name) in ["create", "start", "wait", "delete"].iter().enumerate() {
        let mut times: Vec<_> = steps.iter().map(|s| s[i]).collect();
        times.sort();
        println!(
            "{name:7} median {:6.2} ms",
            times[times.len() / 2].as_secs_f64() * 1e3
        );
    }
    std::fs::remove_dir(root)?;
    Ok(())
}
