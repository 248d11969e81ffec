//! `cargo xtask test`: everything that must hold, in the order that fails soonest.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use xshell::{Shell, cmd};
use xtask::{apt, host, tools};

use crate::{docs, package};

/// Needed by tests: image material, a registry, reference runtimes and clients.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "clang",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "curl",
    "docker-registry",
    "docker.io",
    "jq",
    "libclang-rt-dev-wasm32",
    "lld",
    "nginx-light",
    "openssl",
    "podman",
    "redis-server",
    "redis-tools",
    "runc",
    "skopeo",
    "unzip",
    "wasi-libc",
    "xfsprogs",
];

/// Busy loops beside the tests, with `--busy`: one more than the processors of a small machine.
const NEIGHBOURS: u64 = 3;

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Goes on after a step that failed, and fails at the end.
    #[arg(long)]
    keep_going: bool,
    /// Installs nothing: what needs a missing program is skipped or fails.
    #[arg(long)]
    no_install: bool,
    /// Only a pod under libkrun, for real: makes a guest kernel that KVM runs here where it runs no other (minutes).
    #[arg(long)]
    krun: bool,
    /// Runs the tests eight at a time beside busy neighbours: a test that depends on when it runs fails now and then.
    #[arg(long)]
    busy: bool,
    /// Only the steps whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = host::shell()?;
    let mut steps = Steps {
        args,
        done: vec![],
        failed: false,
    };
    if !host::is_root() {
        println!("Not root: tests that make containers say SKIPPED. `sudo -E cargo xtask test` runs them.");
    }
    if !args.no_install {
        steps.always("install", || install(&sh))?;
    }
    if args.krun {
        steps.always("krun", || tools::run(tools::MACHINES, ["test-krun"]))?;
        return steps.finish();
    }
    steps.run("fmt", || Ok(cmd!(sh, "cargo fmt --all --check").run()?))?;
    steps.run("fetch", || Ok(cmd!(sh, "cargo fetch --locked").run()?))?;
    steps.run("deny", || deny(&sh))?;
    steps.run("clippy", || {
        Ok(cmd!(
            sh,
            "cargo clippy --locked --workspace --all-targets -- -D warnings"
        )
        .run()?)
    })?;
    steps.run("no-features", || no_features(&sh))?;
    steps.run("package", || package::builds_alone(&sh))?;
    steps.run("vm", || tools::run(tools::MACHINES, ["vm"]))?;
    steps.run("nextest", || nextest(&sh, args.busy))?;
    steps.run("examples", || package::examples(&sh))?;
    steps.run("doctest", || {
        Ok(cmd!(sh, "cargo test --locked --workspace --doc --quiet").run()?)
    })?;
    steps.run("doc", || {
        let doc = cmd!(sh, "cargo doc --locked --workspace --no-deps --quiet");
        Ok(doc.env("RUSTDOCFLAGS", "-D warnings").run()?)
    })?;
    steps.run("book", || docs::build_if_possible(&sh))?;
    steps.finish()
}

/// The steps so far, with the time each took.
struct Steps<'a> {
    args: &'a Args,
    done: Vec<(&'static str, Duration, bool)>,
    failed: bool,
}

impl Steps<'_> {
    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        if self
            .args
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            return Ok(());
        }
        self.always(name, step)
    }

    fn always(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("\n=== {name}");
        let begun = Instant::now();
        let outcome = step();
        self.done.push((name, begun.elapsed(), outcome.is_ok()));
        if let Err(error) = outcome {
            eprintln!("{name}: {error:#}");
            self.failed = true;
            if !self.args.keep_going {
                return self.finish();
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        println!("\n=== summary");
        for (name, took, ok) in &self.done {
            println!(
                "{:<12} {:>7.1} s  {}",
                name,
                took.as_secs_f64(),
                if *ok { "ok" } else { "FAILED" }
            );
        }
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        println!("{:<12} {:>7.1} s", "total", total.as_secs_f64());
        match self.done.iter().find(|(_, _, ok)| !ok) {
            Some((name, _, _)) => bail!("step {name} failed"),
            None => Ok(()),
        }
    }
}

fn install(sh: &Shell) -> Result<()> {
    let packages: Vec<&str> = [apt::BUILD, PACKAGES, apt::MACHINES].concat();
    if let Some(missing) = apt::ensure(sh, &packages)? {
        println!(
            "missing, and {}: {}. What needs them is skipped or fails.",
            missing.why,
            missing.packages.join(" ")
        );
    }
    // Built without optimisation: a third of the build time, and their own speed matters little here.
    for (tool, version) in [("cargo-nextest", "^0.9"), ("cargo-deny", "^0.20")] {
        if !host::has_program(tool) && !host::cargo_home_has(tool) {
            println!("installing {tool} (cargo install)");
            let install = cmd!(
                sh,
                "cargo install --quiet --locked --debug {tool} --version {version}"
            );
            install.env("CARGO_PROFILE_DEV_DEBUG", "0").quiet().run()?;
        }
    }
    Ok(())
}

fn deny(sh: &Shell) -> Result<()> {
    let check = ["deny", "--offline", "--log-level", "error", "check"];
    cmd!(sh, "cargo {check...} licenses bans sources").run()?;
    // Where it was fetched before, that will do: nothing but its age is different.
    let fetch = cmd!(sh, "cargo deny --log-level off fetch db");
    let fetched = fetch.quiet().ignore_stdout().ignore_stderr().run().is_ok();
    if fetched || has_advisory_database() {
        return Ok(cmd!(sh, "cargo {check...} advisories").run()?);
    }
    println!("advisories: NOT CHECKED: https://github.com/RustSec/advisory-db cannot be reached from here");
    Ok(())
}

/// Whether cargo-deny has fetched RustSec's database once: one directory for each URL it has it from.
fn has_advisory_database() -> bool {
    let entries = host::cargo_home().and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok());
    entries.is_some_and(|entries| entries.flatten().any(|entry| entry.path().join(".git").is_dir()))
}

/// What is there without features, and that it says what it is without.
fn no_features(sh: &Shell) -> Result<()> {
    let programs = ["--locked", "-p", "magikrun", "-p", "magikrun-cli"];
    cmd!(sh, "cargo check {programs...} --no-default-features").run()?;
    // What `cargo xtask demo` builds.
    let native = ["--features", "magikrun/native,magikrun-cli/native"];
    cmd!(
        sh,
        "cargo clippy {programs...} --no-default-features {native...} -- -D warnings"
    )
    .run()?;
    let library = ["--locked", "-p", "magik-image"];
    cmd!(
        sh,
        "cargo clippy {library...} --no-default-features -- -D warnings"
    )
    .run()?;
    let tests = ["--lib", "--test", "features"];
    Ok(cmd!(
        sh,
        "cargo test {library...} --no-default-features {tests...} --quiet"
    )
    .run()?)
}

fn nextest(sh: &Shell, busy: bool) -> Result<()> {
    // Every binary is built for the tests of its own package.
    let run = || {
        let run = cmd!(
            sh,
            "cargo nextest run --locked --workspace --features magikrun-cli/test-hooks"
        );
        run.env("MAGIKRUN_BINARIES_BUILT", "1")
            .env("NEXTEST_HIDE_PROGRESS_BAR", "1")
            // An assertion of a test says where it is; frames only bury what it says.
            .env("RUST_BACKTRACE", "0")
    };
    if !busy {
        return Ok(run().arg("--no-fail-fast").run()?);
    }
    run().arg("--no-run").run()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for neighbour in 0..NEIGHBOURS {
            let over = &over;
            scope.spawn(move || keep_busy(neighbour, over));
        }
        let ran = run().args(["--no-fail-fast", "--test-threads=8"]).run();
        over.store(true, Ordering::Relaxed);
        Ok(ran?)
    })
}

/// Works for up to a second and a half, sleeps for up to half a second, and so on.
fn keep_busy(neighbour: u64, over: &AtomicBool) {
    // Steps that have no common divisor with 1000 visit every length in an order of their own.
    for turn in (neighbour + 1..).map(|turn| turn * 617 % 1000) {
        let until = Instant::now() + Duration::from_millis(turn * 3 / 2);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        if over.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(Duration::from_millis((turn * 7 + neighbour * 131) % 500));
    }
}
