//! What the checks share.

use anyhow::{Result, ensure};
use magikrun_tests::dropin::{Client, eventually, until_caught};
use rustix::process::Signal;

/// A detached container that sleeps, removed at the end of its check.
pub(crate) struct Sleeper<'a> {
    pub(crate) podman: &'a Client,
    pub(crate) name: String,
}

impl<'a> Sleeper<'a> {
    pub(crate) fn new(podman: &'a Client, options: &str) -> Result<Self> {
        // A shell that ends at SIGTERM: as PID 1 it would otherwise ignore it.
        Self::running(
            podman,
            options,
            "sh -c \"trap 'exit 3' TERM; while :; do sleep 0.1; done\"",
        )
    }

    pub(crate) fn running(podman: &'a Client, options: &str, command: &str) -> Result<Self> {
        Self::of(podman, &format!("{options} box {command}"))
    }

    /// With the options, image and command of `line`.
    pub(crate) fn of(podman: &'a Client, line: &str) -> Result<Self> {
        let sleeper = Self {
            podman,
            name: podman.name(),
        };
        podman.ok(&format!("run -d --name {} {line}", sleeper.name))?;
        Ok(sleeper)
    }

    /// Waits until its program handles a signal.
    pub(crate) fn catching(self, signal: Signal) -> Result<Self> {
        until_caught(self.inspect("State.Pid")?.parse()?, signal)?;
        Ok(self)
    }

    pub(crate) fn ok(&self, command: &str, arguments: &str) -> Result<String> {
        self.podman.ok(&format!("{command} {} {arguments}", self.name))
    }

    pub(crate) fn exec(&self, options: &str, command: &str) -> Result<String> {
        self.podman.ok(&format!("exec {options} {} {command}", self.name))
    }

    pub(crate) fn status(&self) -> Result<String> {
        self.inspect("State.Status")
    }

    pub(crate) fn inspect(&self, field: &str) -> Result<String> {
        self.podman
            .ok(&format!("inspect --format '{{{{.{field}}}}}' {}", self.name))
    }

    pub(crate) fn until(&self, field: &str, value: &str) -> Result<()> {
        eventually(&format!("{field} {value}"), || {
            self.inspect(field).is_ok_and(|v| v == value)
        })
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let _ = self.podman.run(&format!("rm -f -t 0 {}", self.name));
    }
}

pub(crate) fn equal(found: &str, expected: &str) -> Result<()> {
    ensure!(found == expected, "{found:?} is not {expected:?}");
    Ok(())
}

pub(crate) fn contains(found: &str, part: &str) -> Result<()> {
    ensure!(found.contains(part), "{found:?} has no {part:?}");
    Ok(())
}

/// A file of the container's cgroup, named by its v1 controller and file and by its v2 file.
pub(crate) fn cgroup_file(
    podman: &Client,
    options: &str,
    controller: &str,
    v1: &str,
    v2: &str,
) -> Result<String> {
    let script = format!("cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}");
    podman.ok(&format!("run --rm {options} box sh -c '{script}'"))
}
