//! `cargo xtask bench oci`: the OCI command line beside Debian's crun and runc, on the same bundle.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{measure, report, scene};
use crate::host;

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
}

/// A runtime with a state root and bundles of its own.
struct Runtime {
    name: &'static str,
    binary: PathBuf,
    dir: PathBuf,
}

/// An operation: what is measured, and what has to be there before and is removed after.
struct Operation {
    name: &'static str,
    before: fn(&Runtime) -> Result<()>,
    measured: fn(&Runtime) -> Result<()>,
    after: fn(&Runtime) -> Result<()>,
}

fn nothing(_: &Runtime) -> Result<()> {
    Ok(())
}

/// The containers of the rows that make many.
const MANY: usize = 50;

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "create + start + delete",
        before: nothing,
        measured: |r| r.life("plain"),
        after: nothing,
    },
    Operation {
        name: "the same with seccomp",
        before: nothing,
        measured: |r| r.life("seccomp"),
        after: nothing,
    },
    Operation {
        name: "run",
        before: nothing,
        measured: |r| r.ok(&["run", "--bundle", "true", "one"]),
        after: nothing,
    },
    Operation {
        name: "exec",
        before: |r| r.sleeping("plain"),
        measured: |r| r.ok(&["exec", "one", "/bin/true"]),
        after: |r| r.ok(&["delete", "--force", "one"]),
    },
    Operation {
        name: "exec with seccomp",
        before: |r| r.sleeping("seccomp"),
        measured: |r| r.ok(&["exec", "one", "/bin/true"]),
        after: |r| r.ok(&["delete", "--force", "one"]),
    },
    Operation {
        name: "state",
        before: |r| r.sleeping("plain"),
        measured: |r| r.ok(&["state", "one"]),
        after: |r| r.ok(&["delete", "--force", "one"]),
    },
    Operation {
        name: "50 runs, one by one",
        before: nothing,
        measured: Runtime::one_by_one,
        after: nothing,
    },
    Operation {
        name: "50 runs at once",
        before: nothing,
        measured: Runtime::at_once,
        after: nothing,
    },
];

impl Runtime {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .args(args)
            .current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn spawn(&self, args: &[&str]) -> Result<Child> {
        self.command(args)
            .spawn()
            .with_context(|| self.binary.display().to_string())
    }

    fn ok(&self, args: &[&str]) -> Result<()> {
        let status = self.spawn(args)?.wait()?;
        ensure!(status.success(), "{} {args:?}: {status}", self.name);
        Ok(())
    }

    fn sleeping(&self, bundle: &str) -> Result<()> {
        self.ok(&["create", "--bundle", bundle, "one"])?;
        self.ok(&["start", "one"])
    }

    fn life(&self, bundle: &str) -> Result<()> {
        self.sleeping(bundle)?;
        self.ok(&["delete", "--force", "one"])
    }

    fn one_by_one(&self) -> Result<()> {
        (0..MANY).try_for_each(|n| self.ok(&["run", "--bundle", "true", &format!("many-{n}")]))
    }

    fn at_once(&self) -> Result<()> {
        let all = (0..MANY).map(|n| self.spawn(&["run", "--bundle", "true", &format!("many-{n}")]));
        for child in all.collect::<Vec<_>>() {
            let status = child?.wait()?;
            ensure!(status.success(), "{}: {status}", self.name);
        }
        Ok(())
    }

    /// The most memory one command of a container's life had, in KiB, as the kernel accounts it to the ended process.
    fn peak_kib(&self) -> Result<u64> {
        let mut peak = 0;
        for args in [
            &["create", "--bundle", "seccomp", "one"][..],
            &["start", "one"],
            &["exec", "one", "/bin/true"],
            &["delete", "--force", "one"],
        ] {
            let mut child = self.spawn(args)?;
            peak = peak.max(measure::wait_for_peak(&mut child)?);
        }
        Ok(peak)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match scene::dir() {
        Some(dir) => inside(args, &dir),
        None => {
            let rest = [
                "--iterations".into(),
                args.iterations.to_string(),
                "--only".into(),
                args.only.clone(),
            ];
            scene::start(
                "oci",
                &["busybox-static", "crun", "runc"],
                args.no_install,
                args.magikrun.as_deref(),
                &rest,
            )
        }
    }
}

fn inside(args: &Args, dir: &Path) -> Result<()> {
    scene::enter()?;
    let ours = args.magikrun.clone().context("--magikrun")?;
    let mut runtimes = vec![];
    for (name, binary) in [
        ("magikrun", ours),
        ("crun", "/usr/bin/crun".into()),
        ("runc", "/usr/sbin/runc".into()),
    ] {
        if !binary.exists() {
            println!("{name} is not installed: not compared");
            continue;
        }
        let dir = dir.join(name);
        for (bundle, program, seccomp) in [
            ("plain", "sleep", false),
            ("seccomp", "sleep", true),
            ("true", "true", false),
        ] {
            write_bundle(&dir.join(bundle), program, seccomp)?;
        }
        runtimes.push(Runtime { name, binary, dir });
    }

    let mut rows = vec![];
    for operation in OPERATIONS.iter().filter(|o| o.name.contains(&args.only)) {
        let mut samples: Vec<Vec<(Duration, Duration)>> = vec![vec![]; runtimes.len()];
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

    println!(
        "\nMedians of {}, interleaved, wall / CPU in ms; in brackets: how many times magikrun's. {}.\n",
        args.iterations,
        scene::machine()
    );
    println!(
        "| operation                 | {} |",
        runtimes
            .iter()
            .map(|r| format!("{:<30}", r.name))
            .collect::<Vec<_>>()
            .join(" | ")
    );
    println!(
        "|---------------------------|{}|",
        vec!["-".repeat(32); runtimes.len()].join("|")
    );
    let mut series = vec![];
    for (name, samples) in &rows {
        let medians: Vec<[f64; 2]> = samples
            .iter()
            .map(|s| {
                [
                    report::median_ms(s.iter().map(|x| x.0)),
                    report::median_ms(s.iter().map(|x| x.1)),
                ]
            })
            .collect();
        let cell = |i: usize| {
            let [wall, cpu] = medians[i];
            if i == 0 {
                return format!("{:<30}", format!("{wall:.1} / {cpu:.1}"));
            }
            format!(
                "{:<30}",
                format!(
                    "{wall:.1} / {cpu:.1} ({:.2}×, {:.2}×)",
                    wall / medians[0][0],
                    cpu / medians[0][1]
                )
            )
        };
        println!(
            "| {name:<25} | {} |",
            (0..runtimes.len()).map(cell).collect::<Vec<_>>().join(" | ")
        );
        for (runtime, [wall, cpu]) in runtimes.iter().zip(&medians) {
            series.push(json!({"operation": name, "runtime": runtime.name, "wallMs": wall, "cpuMs": cpu}));
        }
    }
    let mut peaks = vec![];
    for runtime in &runtimes {
        peaks.push(runtime.peak_kib()?);
    }
    println!(
        "| peak memory, MiB          | {} |",
        peaks
            .iter()
            .map(|p| format!("{:<30}", report::one_decimal_mib(*p)))
            .collect::<Vec<_>>()
            .join(" | ")
    );
    let file = host::target_dir(&host::shell()?)?.join("bench/oci.json");
    report::write(
        &json!({"machine": scene::machine(), "series": series, "peakKib": peaks}),
        &file,
    )?;
    println!("\nas JSON: {}", file.display());
    Ok(())
}

fn measure_one(runtime: &Runtime, operation: &Operation) -> Result<(Duration, Duration)> {
    (operation.before)(runtime)?;
    let cpu = measure::cpu_used()?;
    let begun = Instant::now();
    (operation.measured)(runtime)?;
    let wall = begun.elapsed();
    let cpu = measure::cpu_used()?.saturating_sub(cpu);
    (operation.after)(runtime)?;
    // `run` removes its container itself.
    if operation.name.contains("run") {
        let mut left = fs::read_dir(runtime.dir.join("root"))?.flatten();
        let is_container = |e: &fs::DirEntry| !e.file_name().as_encoded_bytes().starts_with(b".");
        ensure!(
            !left.any(|e| is_container(&e)),
            "{}: containers are left",
            runtime.name
        );
    }
    measure::wait_until_quiet()?;
    Ok((wall, cpu))
}

/// busybox, and the configuration that `runc spec` writes, with podman's filter where it is asked for.
fn write_bundle(dir: &Path, program: &str, seccomp: bool) -> Result<()> {
    let bin = dir.join("rootfs/bin");
    fs::create_dir_all(&bin)?;
    for path in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(dir.join("rootfs").join(path))?;
    }
    fs::copy("/bin/busybox", bin.join(program)).context("/bin/busybox (Debian: busybox-static)")?;
    if program != "true" {
        fs::copy("/bin/busybox", bin.join("true"))?;
    }
    let args = if program == "true" {
        json!(["true"])
    } else {
        json!([program, "1000"])
    };
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if seccomp {
        config["linux"]["seccomp"] = podman_filter()?;
    }
    fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)?;
    Ok(())
}

/// The rules of the profile that magik-image carries, which is podman's, that hold on x86-64 whatever the capabilities.
fn podman_filter() -> Result<serde_json::Value> {
    let file = host::workspace().join("crates/magik-image/src/bundle/seccomp.json");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut profile: serde_json::Value = serde_json::from_str(&text)?;
    let rules = profile["syscalls"].as_array_mut().context("syscalls")?;
    let has = |rule: &serde_json::Value, condition: &str| {
        rule[condition].as_object().is_some_and(|c| !c.is_empty())
    };
    rules.retain(|rule| {
        let for_us = rule["includes"] == json!({"arches": ["amd64", "x32"]});
        for_us || !has(rule, "includes") && !has(rule, "excludes")
    });
    for rule in rules.iter_mut() {
        let rule = rule.as_object_mut().context("a rule")?;
        rule.retain(|key, value| {
            ["names", "action", "args", "errnoRet"].contains(&key.as_str()) && !value.is_null()
        });
    }
    let architectures = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    Ok(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": architectures, "syscalls": profile["syscalls"]}),
    )
}
