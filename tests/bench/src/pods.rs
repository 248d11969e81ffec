//! `cargo xtask bench pods`.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};

use super::{
    contender::{Contender, Magikrun, Podman},
    cri::Cri,
    measure,
    peers::{Peers, Place},
    report, scene,
};

/// The most of the runtimes' own state in bytes.
const RUN_SIZE: usize = 256 << 20;
/// The pods' numbers of containers.
pub(crate) const SIZES: [usize; 3] = [1, 4, 16];

/// Options of `cargo xtask bench pods`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each pod is run and deleted by each runtime.
    #[arg(long, default_value_t = 7)]
    iterations: usize,
    /// Measures this binary instead of building one.
    #[arg(long, value_name = "PATH")]
    magikrun: Option<PathBuf>,
    /// Runs magikrun only.
    #[arg(long)]
    alone: bool,
    /// Installs nothing.
    #[arg(long)]
    no_install: bool,
    #[command(flatten)]
    peers: Peers,
}

/// One life of one pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From the command's start to its end, which is when all containers run.
    pub(crate) up: Duration,
    /// From the command's start to its end.
    pub(crate) down: Duration,
    /// Processor time of everything until the runtime was quiet again.
    pub(crate) cpu: Duration,
    /// Proportional set size of all processes but the payload's.
    pub(crate) memory_kib: u64,
    /// Those processes.
    pub(crate) processes: usize,
}

/// What was measured of one runtime and one size of pod.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) containers: usize,
    pub(crate) samples: Vec<Sample>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match scene::dir() {
        Some(dir) => inside(args, &dir),
        None => outside(args),
    }
}

/// Installs what is needed, then starts this program again in a world of its own.
fn outside(args: &Args) -> Result<()> {
    let peers = args.peers.prepare(args.no_install)?;
    let mut packages = vec!["busybox-static"];
    let mut rest = vec!["--iterations".into(), args.iterations.to_string()];
    if args.alone {
        rest.push("--alone".into());
    }
    match peers {
        Some(dir) => {
            rest.extend(["--peers".into(), dir.display().to_string()]);
            scene::build_client(args.magikrun.as_deref())?;
        }
        None if args.alone => (),
        None => packages.extend(["podman", "crun", "catatonit"]),
    }
    scene::start(
        "pods",
        &packages,
        args.no_install,
        args.magikrun.as_deref(),
        &rest,
    )
}

fn inside(args: &Args, dir: &Path) -> Result<()> {
    scene::enter()?;
    let place = Place::enter(dir, args.magikrun.as_deref(), &args.peers)?;
    let contenders = contenders(args, &place)?;
    let mut series = vec![];
    for containers in SIZES {
        series.extend(measure_size(&contenders, containers, args.iterations)?);
    }
    report::print(&series, &scene::machine());
    report::save(&series, &scene::machine(), &place.results.join("pods.json"))
}

/// The runtimes, with the image in the store of each.
fn contenders(args: &Args, place: &Place) -> Result<Vec<Box<dyn Contender>>> {
    let dir = place.work.as_path();
    let mut layer = LayerBuilder::new();
    layer.busybox()?;
    let mut layout = Layout::create(dir.join("layout"))?;
    let layer = layer.finish()?;
    for tag in [Magikrun::IMAGE, Podman::TAG] {
        layout.add(tag, &[&layer], &ImageConfig::default())?;
    }
    layout.add(Cri::PAUSE_TAG, &[&layer], &ImageConfig::command(Cri::PAUSE))?;
    let run = dir.join("run");
    magikrun_test_world::mount_tmpfs(&run, RUN_SIZE)?;
    let mut contenders: Vec<Box<dyn Contender>> =
        vec![Box::new(Magikrun::new(place.magikrun.clone(), dir, &run)?)];
    if !args.alone {
        for from_manifest in [true, false] {
            match Podman::new(dir, &run, from_manifest)? {
                Some(podman) => contenders.push(Box::new(podman)),
                None => println!("podman, crun or catatonit is not installed: not compared"),
            }
        }
        if args.peers.directory().is_some() {
            contenders.push(Box::new(Cri::start(&place.magikrun, dir, &run)?));
        }
    }
    for contender in &contenders {
        contender.prepare(&layout).with_context(|| contender.name())?;
    }
    Ok(contenders)
}

/// Every runtime's pods of one size.
fn measure_size(
    contenders: &[Box<dyn Contender>],
    containers: usize,
    iterations: usize,
) -> Result<Vec<Series>> {
    let terminal = std::io::stderr().is_terminal();
    let daemons: Vec<u32> = contenders.iter().filter_map(|c| c.daemon()).collect();
    let mut of_size: Vec<Series> = contenders
        .iter()
        .map(|c| Series {
            name: c.name(),
            containers,
            samples: vec![],
        })
        .collect();
    // The first round warms caches and is not counted; the order changes from round to round.
    for round in 0..=iterations {
        for index in 0..contenders.len() {
            let index = (index + round) % contenders.len();
            let contender = contenders[index].as_ref();
            let sample = measure_one(contender, containers, &daemons)
                .with_context(|| format!("{}, {containers} containers", contender.name()))?;
            if round > 0 {
                of_size[index].samples.push(sample);
            }
        }
        if terminal {
            eprint!("\r{containers:>2} containers: round {round} of {iterations}");
        }
    }
    eprintln!(
        "{}{containers:>2} containers: done          ",
        if terminal { "\r" } else { "" }
    );
    Ok(of_size)
}

/// One life of one pod. What is there all the time is left out of the memory: it does not grow with the pod.
fn measure_one(contender: &dyn Contender, containers: usize, daemons: &[u32]) -> Result<Sample> {
    measure::wait_until_quiet(daemons)?;
    let cpu = measure::cpu_used()?;
    let begun = Instant::now();
    contender.up(containers)?;
    let up = begun.elapsed();
    let up_cpu = measure::cpu_used()?.saturating_sub(cpu);
    // Let what was started settle, then look; looking is not part of the runtime's CPU time.
    sleep(Duration::from_millis(200));
    let processes = measure::payload_runs(containers, daemons)?;
    let memory_kib = measure::overhead_kib(daemons)?;
    let cpu = measure::cpu_used()?;
    let begun = Instant::now();
    contender.down(containers)?;
    let down = begun.elapsed();
    measure::wait_until_quiet(daemons)?;
    let cpu = up_cpu + measure::cpu_used()?.saturating_sub(cpu);
    Ok(Sample {
        up,
        down,
        cpu,
        memory_kib,
        processes,
    })
}
