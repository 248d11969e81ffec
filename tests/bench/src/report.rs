//! Medians as a table for people, every sample as JSON for programs.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use super::pods::{Sample, Series};

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The median of durations, in milliseconds.
pub(crate) fn median_ms(values: impl Iterator<Item = Duration>) -> f64 {
    median(values.map(ms))
}

/// KiB as MiB with one decimal.
pub(crate) fn one_decimal_mib(kib: u64) -> String {
    format!("{:.1}", mib(kib))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a few MiB, shown with one decimal")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Up, delete, CPU in milliseconds, memory in MiB.
fn medians(series: &Series) -> [f64; 4] {
    let s = &series.samples;
    [
        median_ms(s.iter().map(|s| s.up)),
        median_ms(s.iter().map(|s| s.down)),
        median_ms(s.iter().map(|s| s.cpu)),
        median(s.iter().map(|s| mib(s.memory_kib))),
    ]
}

/// Prints medians, and how many times magikrun's each is, as a Markdown table.
pub(crate) fn print(series: &[Series], machine: &str) {
    let iterations = series.first().map_or(0, |s| s.samples.len());
    println!("\nMedians of {iterations}, interleaved; in brackets: how many times magikrun's. {machine}.\n");
    println!(
        "| containers | runtime                 |      up, ms      |    delete, ms    | CPU of both, ms  | memory beside payload, MiB | processes |"
    );
    println!(
        "|-----------:|-------------------------|-----------------:|-----------------:|-----------------:|---------------------------:|----------:|"
    );
    for row in series {
        let ours = series
            .iter()
            .find(|s| s.containers == row.containers)
            .map(medians)
            .unwrap_or_default();
        let cells: Vec<String> = medians(row)
            .iter()
            .zip(ours)
            .map(|(value, ours)| {
                if row.name == "magikrun" {
                    format!("{value:.1}")
                } else {
                    format!("{value:.1} ({:.1}×)", value / ours)
                }
            })
            .collect();
        let processes = row.samples.first().map_or(0, |s| s.processes);
        println!(
            "| {:>10} | {:<23} | {:>16} | {:>16} | {:>16} | {:>26} | {processes:>9} |",
            row.containers, row.name, cells[0], cells[1], cells[2], cells[3]
        );
    }
}

/// Writes every sample.
pub(crate) fn save(series: &[Series], machine: &str, file: &Path) -> Result<()> {
    let sample = |s: &Sample| json!({"upMs": ms(s.up), "deleteMs": ms(s.down), "cpuMs": ms(s.cpu), "memoryMib": mib(s.memory_kib), "processes": s.processes});
    let one = |s: &Series| {
        let [up, delete, cpu, memory] = medians(s);
        let medians = json!({"upMs": up, "deleteMs": delete, "cpuMs": cpu, "memoryMib": memory});
        json!({"runtime": s.name, "containers": s.containers, "medians": medians, "samples": s.samples.iter().map(sample).collect::<Vec<_>>()})
    };
    let all = json!({"machine": machine, "series": series.iter().map(one).collect::<Vec<_>>()});
    write(&all, file)
}

/// Writes a JSON document to a file, making its directory.
pub(crate) fn write(document: &serde_json::Value, file: &Path) -> Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))
        .with_context(|| file.display().to_string())?;
    fs::write(file, serde_json::to_vec_pretty(document)?).with_context(|| file.display().to_string())
}
