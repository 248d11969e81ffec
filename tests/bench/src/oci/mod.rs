//! `cargo xtask bench oci`: the OCI command line beside crun and runc, on the same bundle.

mod bundle;
mod guest;
mod runtime;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;

use self::runtime::{OPERATIONS, Runtime, measure_one};
use super::{
    peers::{Peers, Place},
    report, scene,
};

/// Options of `cargo xtask bench oci`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each operation is measured for each runtime.
    #[arg(long, default_value_t = 11)]
    iterations: usize,
    /// Measures only the operations whose names contain this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Measures this binary instead of building one.
    #[arg(long, value_name = "PATH")]
    magikrun: Option<PathBuf>,
    /// Installs nothing.
    #[arg(long)]
    no_install: bool,
    /// Compares with crun alone in an emulated guest, which has cgroup v2 and nothing else: look at the ratios of CPU.
    #[arg(long)]
    guest: bool,
    #[command(flatten)]
    peers: Peers,
}

/// One operation: wall and processor time of every round, for each runtime.
type Row = (&'static str, Vec<Vec<(Duration, Duration)>>);

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(dir) = scene::dir() {
        return inside(args, &dir);
    }
    let peers = args.peers.prepare(args.no_install)?;
    if args.guest {
        return guest::run(args, peers.as_deref());
    }
    let mut rest = vec![
        "--iterations".into(),
        args.iterations.to_string(),
        "--only".into(),
        args.only.clone(),
    ];
    let mut packages = vec!["busybox-static"];
    match peers {
        Some(dir) => rest.extend(["--peers".into(), dir.display().to_string()]),
        None => packages.extend(["crun", "runc"]),
    }
    scene::start("oci", &packages, args.no_install, args.magikrun.as_deref(), &rest)
}

fn inside(args: &Args, dir: &Path) -> Result<()> {
    scene::enter()?;
    let filter = bundle::filter()?;
    let place = Place::enter(dir, args.magikrun.as_deref(), &args.peers)?;
    let mut runtimes = vec![];
    for (name, binary) in [
        ("magikrun", place.magikrun.clone()),
        ("crun", "/usr/bin/crun".into()),
        ("runc", "/usr/sbin/runc".into()),
    ] {
        if !binary.exists() {
            println!("{name} is not installed: not compared");
            continue;
        }
        let dir = place.work.join(name);
        bundle::write(&dir.join("plain"), "sleep", None)?;
        bundle::write(&dir.join("seccomp"), "sleep", Some(&filter))?;
        bundle::write(&dir.join("true"), "true", None)?;
        runtimes.push(Runtime { name, binary, dir });
    }

    let mut rows: Vec<Row> = vec![];
    for operation in OPERATIONS.iter().filter(|o| o.name.contains(&args.only)) {
        let mut samples = vec![vec![]; runtimes.len()];
        // The first round warms caches and is not counted; the order changes from round to round.
        for round in 0..=args.iterations {
            for index in 0..runtimes.len() {
                let index = (index + round) % runtimes.len();
                let sample = measure_one(&runtimes[index], operation).with_context(|| operation.name)?;
                if round > 0 {
                    samples[index].push(sample);
                }
            }
        }
        eprintln!("{}: done", operation.name);
        rows.push((operation.name, samples));
    }
    let mut peaks = vec![];
    for runtime in &runtimes {
        peaks.push(runtime.peak_kib()?);
    }
    let names: Vec<_> = runtimes.iter().map(|r| r.name).collect();
    print(args.iterations, &names, &rows, &peaks);
    save(&names, &rows, &peaks, &place.results.join("oci.json"))
}

/// Medians of wall and processor time in ms, for each runtime.
fn medians(row: &Row) -> Vec<[f64; 2]> {
    let of = |samples: &Vec<(Duration, Duration)>| {
        [
            report::median_ms(samples.iter().map(|x| x.0)),
            report::median_ms(samples.iter().map(|x| x.1)),
        ]
    };
    row.1.iter().map(of).collect()
}

fn print(iterations: usize, names: &[&str], rows: &[Row], peaks: &[u64]) {
    println!(
        "\nMedians of {iterations}, interleaved, wall / CPU in ms; in brackets: how many times magikrun's. {}.\n",
        scene::machine()
    );
    let line = |title: &str, cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<30}")).collect();
        println!("| {title:<25} | {} |", cells.join(" | "));
    };
    line("operation", names.iter().map(|n| (*n).to_owned()).collect());
    println!(
        "|---------------------------|{}|",
        vec!["-".repeat(32); names.len()].join("|")
    );
    for row in rows {
        let medians = medians(row);
        let [our_wall, our_cpu] = medians[0];
        let cell = |(index, [wall, cpu]): (usize, &[f64; 2])| {
            if index == 0 {
                return format!("{wall:.1} / {cpu:.1}");
            }
            format!(
                "{wall:.1} / {cpu:.1} ({:.2}×, {:.2}×)",
                wall / our_wall,
                cpu / our_cpu
            )
        };
        line(row.0, medians.iter().enumerate().map(cell).collect());
    }
    line(
        "peak memory, MiB",
        peaks.iter().map(|p| report::one_decimal_mib(*p)).collect(),
    );
}

fn save(names: &[&str], rows: &[Row], peaks: &[u64], file: &Path) -> Result<()> {
    let mut series = vec![];
    for row in rows {
        for (name, [wall, cpu]) in names.iter().zip(medians(row)) {
            series.push(json!({"operation": row.0, "runtime": name, "wallMs": wall, "cpuMs": cpu}));
        }
    }
    report::write(
        &json!({"machine": scene::machine(), "series": series, "peakKib": peaks}),
        file,
    )
}
