//! `cargo xtask bench images`: pulling and unpacking an image of 633 MB from a registry on this machine, beside podman, containerd
//! and skopeo with umoci, and beside the least that has to be done: `gzip -dc | tar x`.

mod rootfs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use xshell::cmd;

use super::{measure, report, scene};
use xtask::{apt, host};

/// Options of `cargo xtask bench images`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each is measured on each file system.
    #[arg(long, default_value_t = 3)]
    iterations: usize,
    /// What `tests/bench/make-images.sh` has made; made if it is not there [default:
    /// target/bench/images]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Measures this binary instead of building one.
    #[arg(long, value_name = "PATH")]
    magikrun: Option<PathBuf>,
    /// Installs nothing.
    #[arg(long)]
    no_install: bool,
}

/// Makes the image.
const MAKE_IMAGES: &[&str] = &["attr", "debootstrap", "jq", "libcap2-bin", "python3", "umoci"];
/// Compared.
const PEERS: &[&str] = &["containerd", "docker-registry", "podman", "skopeo", "umoci"];
const REPOSITORY: &str = "bench/real:latest";
const LAYERS: usize = 5;

/// What one run cost.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: Duration,
    /// Of everything in this world but the registry.
    cpu: Duration,
    /// The most memory that one process had, in KiB.
    peak_kib: u64,
}

/// Who brings an image onto the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Magikrun,
    Podman,
    Containerd,
    SkopeoUmoci,
    GzipTar,
}

const CONTENDERS: [Contender; 5] = [
    Contender::Magikrun,
    Contender::Podman,
    Contender::Containerd,
    Contender::SkopeoUmoci,
    Contender::GzipTar,
];

impl Contender {
    const fn name(self) -> &'static str {
        match self {
            Self::Magikrun => "magikrun image pull",
            Self::Podman => "podman pull",
            Self::Containerd => "ctr images pull",
            Self::SkopeoUmoci => "skopeo copy + umoci unpack",
            Self::GzipTar => "gzip -dc \\| tar x",
        }
    }
}

/// The registry, and who pulls from it.
struct Bench {
    magikrun: PathBuf,
    images: PathBuf,
    address: String,
    registry: Child,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(dir) = scene::dir() {
        return inside(args, &dir);
    }
    let sh = host::shell()?;
    let images = match &args.images {
        Some(dir) => dir.clone(),
        None => host::target_dir(&sh)?.join("bench/images"),
    };
    if !images.join("oci/index.json").is_file() {
        if !args.no_install
            && let Some(missing) = apt::ensure(&sh, MAKE_IMAGES)?
        {
            bail!("missing, and {}: {}", missing.why, missing.packages.join(" "));
        }
        let script = host::workspace().join("tests/bench/make-images.sh");
        println!("making the image in {}", images.display());
        fs::create_dir_all(&images)?;
        cmd!(sh, "bash {script} {images}").quiet().ignore_stdout().run()?;
    }
    let images = images.canonicalize()?.display().to_string();
    let rest = [
        "--iterations".into(),
        args.iterations.to_string(),
        "--images".into(),
        images,
    ];
    scene::start("images", PEERS, args.no_install, args.magikrun.as_deref(), &rest)
}

fn inside(args: &Args, dir: &Path) -> Result<()> {
    scene::enter()?;
    let bench = Bench::start(args, dir)?;
    let (memory, disk) = (dir.join("tmpfs"), dir.join("disk"));
    fs::create_dir_all(&memory)?;
    magikrun_test_world::mount_tmpfs(&memory, 8 << 30)?;
    let mut series = vec![];
    for (kind, place) in [("tmpfs", memory), ("disk", disk)] {
        let mut cold: Vec<Vec<Sample>> = vec![vec![]; CONTENDERS.len()];
        let mut warm: Vec<Vec<Sample>> = vec![vec![]; CONTENDERS.len()];
        let mut mounts = vec![];
        for round in 0..args.iterations {
            for index in 0..CONTENDERS.len() {
                // Whoever is first changes from round to round.
                let index = (index + round) % CONTENDERS.len();
                let contender = CONTENDERS[index];
                let place = place.join("store");
                fs::create_dir_all(&place)?;
                let (first, again) = bench
                    .measure(contender, &place)
                    .with_context(|| contender.name())?;
                cold[index].push(first);
                warm[index].extend(again);
                if contender == Contender::Magikrun {
                    mounts.extend(rootfs::mounts(&place.join("root"))?);
                }
                remove(&place)?;
                let seconds = first.wall.as_secs_f64();
                eprintln!(
                    "{kind}, round {}: {}: {seconds:.1} s",
                    round + 1,
                    contender.name()
                );
            }
        }
        table(kind, &cold, &warm);
        println!(
            "\nA root file system of that image (one overlay of {LAYERS} layers, mounted and unmounted): {:.2} ms.",
            report::median_ms(mounts.iter().copied())
        );
        for ((contender, cold), warm) in CONTENDERS.iter().zip(&cold).zip(&warm) {
            series.push(json!({"place": kind, "contender": contender.name(), "cold": samples(cold), "warm": samples(warm)}));
        }
        let micros: Vec<_> = mounts.iter().map(Duration::as_micros).collect();
        series.push(json!({"place": kind, "contender": "overlay mount", "microseconds": micros}));
    }
    let file = scene::results()?.join("images.json");
    report::write(&json!({"machine": scene::machine(), "series": series}), &file)?;
    println!("\n{}.", scene::machine());
    Ok(())
}

impl Bench {
    /// Starts the registry and fills it.
    fn start(args: &Args, dir: &Path) -> Result<Self> {
        let address = "127.0.0.1:5000".to_owned();
        let config = dir.join("registry.yml");
        let data = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            data.display()
        );
        fs::write(&config, text)?;
        let registry = quiet(Command::new("docker-registry").arg("serve").arg(&config))
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry")?;
        let bench = Self {
            magikrun: args.magikrun.clone().context("--magikrun")?,
            images: args.images.clone().context("--images")?,
            address,
            registry,
        };
        let begun = Instant::now();
        while std::net::TcpStream::connect(&bench.address).is_err() {
            ensure!(
                begun.elapsed() < Duration::from_secs(10),
                "docker-registry does not start"
            );
            sleep(Duration::from_millis(20));
        }
        let from = format!("oci:{}:real", bench.images.join("oci").display());
        let to = format!("docker://{}/{REPOSITORY}", bench.address);
        ok(Command::new("skopeo").args(["copy", "-q", "--dest-tls-verify=false", &from, &to]))?;
        Ok(bench)
    }

    fn image(&self) -> String {
        format!("{}/{REPOSITORY}", self.address)
    }

    /// A pull into an empty store, and one into the same store again.
    fn measure(&self, contender: Contender, place: &Path) -> Result<(Sample, Option<Sample>)> {
        let image = self.image();
        let path = |name: &str| place.join(name).display().to_string();
        Ok(match contender {
            Contender::Magikrun => {
                let pull = || {
                    let mut command = Command::new(&self.magikrun);
                    command.args(["--root", &path("root"), "image", "pull", "--quiet", &image]);
                    vec![command]
                };
                (self.cost(pull(), None)?, Some(self.cost(pull(), None)?))
            }
            Contender::Podman => {
                let pull = || {
                    let mut command = Command::new("podman");
                    command.args([
                        "--root",
                        &path("root"),
                        "--runroot",
                        &path("run"),
                        "--tmpdir",
                        &path("tmp"),
                    ]);
                    command.args([
                        "--storage-driver",
                        "overlay",
                        "--cgroup-manager",
                        "cgroupfs",
                        "--events-backend",
                        "file",
                    ]);
                    command.args(["pull", "-q", "--tls-verify=false", &image]);
                    vec![command]
                };
                (self.cost(pull(), None)?, Some(self.cost(pull(), None)?))
            }
            Contender::Containerd => {
                let daemon = Containerd::start(place)?;
                let pull = || {
                    let mut command = Command::new("ctr");
                    command.args(["-a", &path("sock"), "images", "pull", "--plain-http", &image]);
                    vec![command]
                };
                let pid = Some(daemon.0.id());
                (self.cost(pull(), pid)?, Some(self.cost(pull(), pid)?))
            }
            Contender::SkopeoUmoci => {
                let layout = path("layout");
                let mut copy = Command::new("skopeo");
                copy.args([
                    "copy",
                    "-q",
                    "--src-tls-verify=false",
                    &format!("docker://{image}"),
                    &format!("oci:{layout}:real"),
                ]);
                let mut unpack = Command::new("umoci");
                unpack.args(["unpack", "--image", &format!("{layout}:real"), &path("bundle")]);
                (self.cost(vec![copy, unpack], None)?, None)
            }
            Contender::GzipTar => {
                let layers = (0..LAYERS).map(|n| {
                    let layer = self.images.join(format!("layers/{n}.tar.gz"));
                    let dir = place.join(n.to_string());
                    let script = "mkdir \"$2\" && gzip -dc \"$1\" | tar -x --numeric-owner --xattrs --xattrs-include='*' -C \"$2\"";
                    let mut command = Command::new("sh");
                    command.args(["-c", script, "sh"]).args([layer, dir]);
                    command
                });
                (self.cost(layers.collect(), None)?, None)
            }
        })
    }

    /// Runs commands one after the other; `daemon` does the work for them.
    fn cost(&self, commands: Vec<Command>, daemon: Option<u32>) -> Result<Sample> {
        let used =
            || -> Result<Duration> { Ok(measure::cpu_used()?.saturating_sub(cpu_of(self.registry.id())?)) };
        let (cpu, begun) = (used()?, Instant::now());
        let mut peak_kib = 0;
        for mut command in commands {
            let mut child = quiet(&mut command).spawn()?;
            peak_kib = peak_kib.max(measure::wait_for_peak(&mut child)?);
        }
        let wall = begun.elapsed();
        let cpu = used()?.saturating_sub(cpu);
        if let Some(pid) = daemon {
            peak_kib = peak_kib.max(high_water(pid)?);
        }
        Ok(Sample { wall, cpu, peak_kib })
    }
}

/// A daemon with a store of its own.
struct Containerd(Child);

impl Containerd {
    fn start(place: &Path) -> Result<Self> {
        let path = |name: &str| place.join(name).display().to_string();
        let config = path("config.toml");
        fs::write(
            &config,
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )?;
        let mut command = Command::new("containerd");
        command.args([
            "--config",
            &config,
            "--root",
            &path("root"),
            "--state",
            &path("state"),
            "--address",
            &path("sock"),
        ]);
        let daemon = Self(
            quiet(&mut command)
                .stderr(Stdio::null())
                .spawn()
                .context("containerd")?,
        );
        let begun = Instant::now();
        while !quiet(
            Command::new("ctr")
                .args(["-a", &path("sock"), "version"])
                .stderr(Stdio::null()),
        )
        .status()?
        .success()
        {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "containerd does not start"
            );
            sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null())
}

fn ok(command: &mut Command) -> Result<()> {
    let status = quiet(command).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Processor time of one process so far (proc_pid_stat(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The most memory a process has had, in KiB.
fn high_water(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or("0 kB").trim().trim_end_matches(" kB").parse()?)
}

/// What was pulled, with whatever was mounted in it.
fn remove(place: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|m| Path::new(m).starts_with(place));
    let mut below: Vec<&str> = below.collect();
    below.sort_unstable();
    for mount in below.into_iter().rev() {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH)?;
    }
    fs::remove_dir_all(place).with_context(|| place.display().to_string())
}

fn medians(samples: &[Sample]) -> Option<[f64; 3]> {
    if samples.is_empty() {
        return None;
    }
    let peak = samples.iter().map(|s| Duration::from_millis(s.peak_kib / 1024));
    Some([
        report::median_ms(samples.iter().map(|s| s.wall)) / 1000.0,
        report::median_ms(samples.iter().map(|s| s.cpu)) / 1000.0,
        report::median_ms(peak),
    ])
}

fn samples(samples: &[Sample]) -> serde_json::Value {
    let one =
        |s: &Sample| json!({"wallMs": s.wall.as_millis(), "cpuMs": s.cpu.as_millis(), "peakKib": s.peak_kib});
    samples.iter().map(one).collect()
}

fn table(kind: &str, cold: &[Vec<Sample>], warm: &[Vec<Sample>]) {
    println!(
        "\nOn {kind}, medians of {}; in brackets: how many times gzip and tar's.\n",
        cold[0].len()
    );
    println!(
        "| {:<26} | wall, s | CPU, s | peak memory, MiB | again: wall, ms | again: CPU, ms |",
        kind
    );
    println!(
        "|{}|--------:|-------:|-----------------:|----------------:|---------------:|",
        "-".repeat(28)
    );
    let floor = medians(&cold[CONTENDERS.len() - 1]).unwrap_or([f64::NAN; 3]);
    for ((contender, cold), warm) in CONTENDERS.iter().zip(cold).zip(warm) {
        let [wall, cpu, peak] = medians(cold).unwrap_or([f64::NAN; 3]);
        let again = medians(warm).map_or_else(
            || ["–".to_owned(), "–".to_owned()],
            |[wall, cpu, _]| [format!("{:.0}", wall * 1000.0), format!("{:.0}", cpu * 1000.0)],
        );
        println!(
            "| {:<26} | {wall:.2} ({:.2}×) | {cpu:.2} ({:.2}×) | {peak:.0} | {} | {} |",
            contender.name(),
            wall / floor[0],
            cpu / floor[1],
            again[0],
            again[1]
        );
    }
}
