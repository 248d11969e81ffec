//! `cargo xtask bench vm`: what a pod's machine costs beside a bare one, emulated or not.
//!
//! Three things in turn, each on the same monitor, kernel and memory: a guest whose first program powers off at once, which
//! is as little as a machine can be; one with our init, until it says hello; a pod of one container, until that runs.

use std::{
    fs,
    io::IsTerminal,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use magik_vm::{Acceleration, Booted, DriverKind, Qemu, VmDriver, VmFiles, VmSpec};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use serde_json::json;

use super::{measure, report, scene};
use xtask::{apt, host, tools};

/// The most of the runtime's own state in bytes.
const RUN_SIZE: usize = 256 << 20;
/// Everybody's memory in MiB: what a pod of one container without limits gets.
const MEMORY_MIB: u32 = 256;
const IMAGE: &str = "localhost/busybox:bench";
/// A boot takes longer on no machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Options of `cargo xtask bench vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each is booted.
    #[arg(long, default_value_t = 9)]
    iterations: usize,
    /// Measures this binary instead of building one.
    #[arg(long, value_name = "PATH")]
    magikrun: Option<PathBuf>,
    /// Installs and builds nothing for machines.
    #[arg(long)]
    no_install: bool,
    /// Uses the hardware.
    #[arg(long)]
    kvm: bool,
}

/// What one boot took.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: Duration,
    cpu: Duration,
}

/// What is booted, with its samples.
#[derive(Debug, Default)]
struct Series {
    name: &'static str,
    samples: Vec<Sample>,
}

impl Series {
    fn wall(&self) -> f64 {
        report::median_ms(self.samples.iter().map(|s| s.wall))
    }

    fn cpu(&self) -> f64 {
        report::median_ms(self.samples.iter().map(|s| s.cpu))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(dir) = scene::dir() {
        return inside(args, &dir);
    }
    if !args.no_install {
        tools::run(tools::MACHINES, ["vm"])?;
    }
    let mut rest = vec!["--iterations".into(), args.iterations.to_string()];
    if args.kvm {
        rest.push("--kvm".into());
    }
    let packages: Vec<&str> = [&["busybox-static"], apt::MACHINES].concat();
    scene::start("vm", &packages, args.no_install, args.magikrun.as_deref(), &rest)
}

fn inside(args: &Args, dir: &Path) -> Result<()> {
    scene::enter()?;
    let sh = host::shell()?;
    let files = VmFiles::new(host::machine_files(&sh)?);
    let acceleration = if args.kvm {
        Acceleration::Kvm
    } else {
        Acceleration::Tcg
    };
    let bench = Bench {
        tokio: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        qemu: Qemu::find(&files, acceleration)?,
        files,
        pod: Pod::new(args, dir)?,
        dir: dir.join("machines"),
    };
    fs::create_dir(&bench.dir)?;
    let names = [
        "power off at once",
        "vminit says hello",
        "pod of one container runs",
    ];
    let mut series = names.map(|name| Series {
        name,
        samples: vec![],
    });
    let (mut memory, mut monitor) = (vec![], vec![]);
    let terminal = std::io::stderr().is_terminal();
    // The first round warms caches and is not counted; the order changes from round to round.
    for round in 0..=args.iterations {
        for index in 0..series.len() {
            let index = (index + round) % series.len();
            let sample = match index {
                0 => bench.bare()?,
                1 => bench.hello()?,
                _ => {
                    let (sample, all, qemu) = bench.pod()?;
                    memory.push(all);
                    monitor.push(qemu);
                    sample
                }
            };
            if round > 0 {
                series[index].samples.push(sample);
            }
        }
        if terminal {
            eprint!("\rround {round} of {}", args.iterations);
        }
    }
    eprintln!();
    print(&series, &bench.qemu.manner(), &mut memory, &mut monitor);
    save(&series, &scene::results()?.join("vm.json"))
}

struct Bench {
    tokio: tokio::runtime::Runtime,
    qemu: Qemu,
    files: VmFiles,
    pod: Pod,
    dir: PathBuf,
}

impl Bench {
    /// Boots a guest whose first program ends the machine.
    fn bare(&self) -> Result<Sample> {
        let spec = self.place()?;
        for name in magik_vm::ROOT_DIRECTORIES {
            fs::create_dir(spec.root.join(name))?;
        }
        let init = spec.root.join("init");
        fs::write(&init, power_off())?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let (begun, cpu) = begin()?;
        let ended = self.tokio.block_on(async {
            let mut vm = self.qemu.spawn(&spec).await?;
            let ended = tokio::time::timeout(LIMIT, vm.ended()).await;
            let wall = begun.elapsed();
            vm.kill().await;
            anyhow::Ok((ended, wall))
        });
        let (ended, wall) = ended?;
        let ended = ended.context("the guest does not power off")?;
        ensure!(ended.is_power_off(), "{ended}");
        let sample = Sample {
            wall,
            cpu: measure::cpu_used()?.saturating_sub(cpu),
        };
        fs::remove_dir_all(&self.dir)?;
        Ok(sample)
    }

    /// Boots our init until it says hello.
    fn hello(&self) -> Result<Sample> {
        let spec = self.place()?;
        let nonce = magik_vm::nonce()?;
        let config = serde_json::from_value(json!({
            "nonce": nonce, "hostname": "bench", "scratch": {"target": "/run/pod", "size": 1 << 20},
        }))?;
        magik_vm::lay_out(&spec.root, &self.files.vminit()?, &config)?;
        let (begun, cpu) = begin()?;
        let sample = self.tokio.block_on(async {
            let Booted { vm, .. } = magik_vm::boot(&self.qemu, &spec, &nonce, LIMIT).await?;
            let sample = Sample {
                wall: begun.elapsed(),
                cpu: measure::cpu_used()?.saturating_sub(cpu),
            };
            vm.kill().await;
            anyhow::Ok(sample)
        })?;
        fs::remove_dir_all(&self.dir)?;
        Ok(sample)
    }

    /// Runs a pod until its container runs; with the memory of all its processes on the host, and of the monitor, in KiB.
    fn pod(&self) -> Result<(Sample, u64, u64)> {
        let (begun, cpu) = begin()?;
        self.pod.magikrun(&["pod", "run", "-f", &self.pod.manifest])?;
        let sample = Sample {
            wall: begun.elapsed(),
            cpu: measure::cpu_used()?.saturating_sub(cpu),
        };
        let all = measure::overhead_kib(&[])?;
        let monitor = measure::pss_kib("qemu-system-x86")?;
        self.pod.magikrun(&["pod", "delete", "--force", "bench"])?;
        Ok((sample, all, monitor))
    }

    fn place(&self) -> Result<VmSpec> {
        let (root, sockets) = (self.dir.join("root"), self.dir.join("sockets"));
        for directory in [&root, &sockets] {
            fs::create_dir_all(directory)?;
        }
        Ok(VmSpec {
            memory_mib: MEMORY_MIB,
            vcpus: 1,
            root,
            shares: vec![],
            sockets,
            user: None,
        })
    }
}

/// Waits until the world is quiet, and looks at the clocks.
fn begin() -> Result<(Instant, Duration)> {
    measure::wait_until_quiet(&[])?;
    let cpu = measure::cpu_used()?;
    Ok((Instant::now(), cpu))
}

/// magikrun and its pod.
struct Pod {
    binary: PathBuf,
    roots: [PathBuf; 2],
    manifest: String,
    driver: DriverKind,
}

impl Pod {
    fn new(args: &Args, dir: &Path) -> Result<Self> {
        let mut layer = LayerBuilder::new();
        layer.busybox()?;
        let mut layout = Layout::create(dir.join("layout"))?;
        layout.add(IMAGE, &[&layer.finish()?], &ImageConfig::default())?;
        let run = dir.join("run");
        magikrun_test_world::mount_tmpfs(&run, RUN_SIZE)?;
        let manifest = dir.join("pod.json");
        let container = json!({"name": "c", "image": IMAGE, "command": [measure::PAYLOAD, "1000"]});
        let spec =
            json!({"runtimeClassName": "microvm", "restartPolicy": "Never", "containers": [container]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench"}, "spec": spec});
        fs::write(&manifest, pod.to_string())?;
        let pod = Self {
            binary: args.magikrun.clone().context("--magikrun")?,
            roots: [dir.join("root"), run.join("magikrun")],
            manifest: manifest.display().to_string(),
            driver: if args.kvm {
                DriverKind::QemuKvm
            } else {
                DriverKind::QemuTcg
            },
        };
        pod.magikrun(&["image", "pull", &layout.reference(IMAGE)])?;
        Ok(pod)
    }

    fn magikrun(&self, args: &[&str]) -> Result<()> {
        let [data, state] = &self.roots;
        let out = Command::new(&self.binary)
            .arg("--root")
            .arg(data)
            .arg("--state-dir")
            .arg(state)
            .args(args)
            .env(magik_vm::DRIVER_VARIABLE, self.driver.as_str())
            .env(magik_vm::FILES_VARIABLE, host::machine_files(&host::shell()?)?)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            out.status.success(),
            "magikrun {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }
}

/// The smallest program that ends a machine: reboot(2) with `RB_AUTOBOOT`, which `-no-reboot` makes an end.
fn power_off() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    #[rustfmt::skip]
    let code: &[u8] = &[
        0xb8, 169, 0, 0, 0,                 // mov eax, reboot
        0xbf, 0xad, 0xde, 0xe1, 0xfe,       // mov edi, 0xfee1dead
        0xbe, 0x69, 0x19, 0x12, 0x28,       // mov esi, 672274793
        0xba, 0x67, 0x45, 0x23, 0x01,       // mov edx, RB_AUTOBOOT
        0x0f, 0x05,                         // syscall
        0xeb, 0xfe,                         // jmp .
    ];
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_X86_64, version 1.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend((BASE + HEADERS).to_le_bytes());
    // The program header follows; there are no sections.
    elf.extend(64_u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for value in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(u64::to_le_bytes(value));
    }
    elf.extend(code);
    elf
}

fn print(series: &[Series; 3], manner: &str, memory: &mut [u64], monitor: &mut [u64]) {
    println!("\n{manner}; medians\n");
    println!("| until | wall ms | CPU ms | CPU, of the bare boot |");
    println!("|---|---|---|---|");
    let bare = series[0].cpu();
    for one in series {
        println!(
            "| {} | {:.0} | {:.0} | {:.2} |",
            one.name,
            one.wall(),
            one.cpu(),
            one.cpu() / bare
        );
    }
    memory.sort_unstable();
    monitor.sort_unstable();
    println!(
        "\nMemory of a pod of one container on the host: {} MiB, of which QEMU {} MiB (the guest's included)",
        report::one_decimal_mib(memory[memory.len() / 2]),
        report::one_decimal_mib(monitor[monitor.len() / 2]),
    );
    println!("{}", scene::machine());
}

fn save(series: &[Series], file: &Path) -> Result<()> {
    let all: Vec<_> = series
        .iter()
        .map(|one| {
            let samples: Vec<_> = one
                .samples
                .iter()
                .map(|s| json!({"wall_ms": s.wall.as_secs_f64() * 1e3, "cpu_ms": s.cpu.as_secs_f64() * 1e3}))
                .collect();
            json!({"until": one.name, "samples": samples})
        })
        .collect();
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, serde_json::to_vec_pretty(&all)?).with_context(|| file.display().to_string())
}
