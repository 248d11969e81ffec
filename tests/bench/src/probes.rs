//! `cargo xtask bench probes`: what it costs to ask containers how they are.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use serde_json::{Value, json};

use super::{contender::Magikrun, measure, report, scene};

/// As many as a pod can have.
const CONTAINERS: u16 = 16;
/// The most of the runtime's own state in bytes.
const RUN_SIZE: usize = 256 << 20;

/// Options of `cargo xtask bench probes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For how many seconds each pod is asked.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How often each pod is measured.
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// Measures this binary instead of building one.
    #[arg(long, value_name = "PATH")]
    magikrun: Option<PathBuf>,
    /// Installs nothing.
    #[arg(long)]
    no_install: bool,
}

/// Processor time while a pod was asked, as a share of one processor.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Of everything: the pod's init, and the programs and servers in its containers.
    all: f64,
    /// Of the pod's init alone, the programs that it has run not counted.
    init: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match scene::dir() {
        Some(dir) => inside(args, &dir),
        None => {
            let rest = ["--seconds".into(), args.seconds.to_string()];
            let more = ["--iterations".into(), args.iterations.to_string()];
            let rest = [rest, more].concat();
            let given = args.magikrun.as_deref();
            scene::start("probes", &["busybox-static"], args.no_install, given, &rest)
        }
    }
}

fn inside(args: &Args, dir: &Path) -> Result<()> {
    scene::enter()?;
    let binary = args.magikrun.clone().context("--magikrun")?;
    let mut layer = LayerBuilder::new();
    layer.busybox()?;
    let mut layout = Layout::create(dir.join("layout"))?;
    layout.add(Magikrun::IMAGE, &[&layer.finish()?], &ImageConfig::default())?;
    let run = dir.join("run");
    magikrun_test_world::mount_tmpfs(&run, RUN_SIZE)?;
    let magikrun = Magikrun::new(binary, dir, &run)?;
    magikrun.magikrun(&["image", "pull", &layout.reference(Magikrun::IMAGE)])?;

    let kinds: [(&str, &[&str]); 5] = [
        ("no probes", &[]),
        ("tcpSocket", &["tcpSocket"]),
        ("httpGet", &["httpGet"]),
        ("exec", &["exec"]),
        ("exec and httpGet", &["exec", "httpGet"]),
    ];
    let mut samples = vec![Vec::new(); kinds.len()];
    for round in 0..args.iterations {
        for index in 0..kinds.len() {
            // The order changes from round to round.
            let index = (index + round) % kinds.len();
            let sample = measure_one(&magikrun, dir, kinds[index].1, args.seconds);
            samples[index].push(sample.with_context(|| kinds[index].0)?);
        }
    }
    println!("\n{CONTAINERS} containers, each asked every second; share of one processor, medians\n");
    println!("| probes of each | everything | the init alone |\n|---|--:|--:|");
    let mut rows = Vec::new();
    for ((name, _), samples) in kinds.iter().zip(&samples) {
        let all = median(samples.iter().map(|sample| sample.all));
        let init = median(samples.iter().map(|sample| sample.init));
        println!("| {name} | {all:.2} % | {init:.2} % |");
        rows.push(json!({"probes": name, "all_percent": all, "init_percent": init}));
    }
    // A container has two probes for all its life: the third kind is what it costs alone.
    let of = |index: usize, what: fn(&Sample) -> f64| median(samples[index].iter().map(what));
    let sum = |what| of(4, what) + of(1, what) - of(0, what);
    let (all, init) = (sum(|sample| sample.all), sum(|sample| sample.init));
    println!("| all three: the last and tcpSocket | {all:.2} % | {init:.2} % |");
    rows.push(json!({"probes": "all three", "all_percent": all, "init_percent": init}));
    let machine = scene::machine();
    println!("\n{machine}");
    let document =
        json!({"machine": machine, "containers": CONTAINERS, "seconds": args.seconds, "rows": rows});
    report::write(&document, &scene::results()?.join("probes.json"))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn measure_one(magikrun: &Magikrun, dir: &Path, probes: &[&str], seconds: u64) -> Result<Sample> {
    let file = dir.join("probes.json");
    fs::write(&file, manifest(probes).to_string())?;
    magikrun.magikrun(&["pod", "run", "-f", &file.display().to_string()])?;
    // What the start has left to do is no cost of probes.
    sleep(Duration::from_secs(2));
    let (all, init) = (measure::cpu_used()?, measure::cpu_of("magikrun-init")?);
    sleep(Duration::from_secs(seconds));
    let (all, init) = (
        measure::cpu_used()?.saturating_sub(all),
        measure::cpu_of("magikrun-init")?.saturating_sub(init),
    );
    magikrun.magikrun(&["pod", "delete", "--force", "bench"])?;
    measure::wait_until_quiet(&[])?;
    let share = |time: Duration| time.as_secs_f64() / Duration::from_secs(seconds).as_secs_f64() * 100.0;
    Ok(Sample {
        all: share(all),
        init: share(init),
    })
}

/// A pod of containers that serve a page, each with these probes.
fn manifest(probes: &[&str]) -> Value {
    let container = |number: u16| {
        let port = 8000 + number;
        let mut container = json!({
            "name": format!("c{number}"), "image": Magikrun::IMAGE, "imagePullPolicy": "IfNotPresent",
            "command": ["busybox", "httpd", "-f", "-p", port.to_string(), "-h", "/etc"],
        });
        for (probe, kind) in ["livenessProbe", "readinessProbe"].iter().zip(probes) {
            let asked = match *kind {
                "exec" => json!({"command": ["busybox", "true"]}),
                "httpGet" => json!({"port": port, "path": "/hosts"}),
                _ => json!({"port": port}),
            };
            container[*probe] = json!({*kind: asked, "periodSeconds": 1, "timeoutSeconds": 5});
        }
        container
    };
    let containers: Vec<Value> = (0..CONTAINERS).map(container).collect();
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": containers});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench"}, "spec": spec})
}
