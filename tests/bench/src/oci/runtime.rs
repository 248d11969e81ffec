//! A runtime under test, and what is measured of it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::measure;

/// A runtime with a state root and bundles of its own.
pub(super) struct Runtime {
    pub(super) name: &'static str,
    pub(super) binary: PathBuf,
    pub(super) dir: PathBuf,
}

/// An operation: what is measured, and what has to be there before and is removed after.
pub(super) struct Operation {
    pub(super) name: &'static str,
    before: fn(&Runtime) -> Result<()>,
    measured: fn(&Runtime) -> Result<()>,
    after: fn(&Runtime) -> Result<()>,
}

fn nothing(_: &Runtime) -> Result<()> {
    Ok(())
}

/// The containers of the rows that make many.
const MANY: usize = 50;

pub(super) const OPERATIONS: &[Operation] = &[
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
    pub(super) fn peak_kib(&self) -> Result<u64> {
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

/// Wall and processor time of one operation.
pub(super) fn measure_one(runtime: &Runtime, operation: &Operation) -> Result<(Duration, Duration)> {
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
    measure::wait_until_quiet(&[])?;
    Ok((wall, cpu))
}
