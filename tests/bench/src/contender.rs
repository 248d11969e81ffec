//! The runtimes that are compared, and how each runs and deletes a pod.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use magikrun_test_images::Layout;
use serde_json::json;

use super::measure::PAYLOAD;
use xtask::host;

/// A way to run pods.
pub(crate) trait Contender {
    /// As the table names it.
    fn name(&self) -> &'static str;
    /// Imports the image, so that no measurement contains it.
    fn prepare(&self, layout: &Layout) -> Result<()>;
    /// Returns when all containers run.
    fn up(&self, containers: usize) -> Result<()>;
    /// Returns when the pod is deleted.
    fn down(&self, containers: usize) -> Result<()>;
    /// The process that is there before and after every pod.
    fn daemon(&self) -> Option<u32> {
        None
    }
}

/// A pod of `count` containers that sleep.
fn manifest(image: &str, count: usize) -> String {
    let container = |n| json!({"name": format!("c{n}"), "image": image, "imagePullPolicy": "IfNotPresent", "command": [PAYLOAD, "1000"]});
    let containers: Vec<_> = (0..count).map(container).collect();
    let spec =
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": containers});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bench"}, "spec": spec}).to_string()
}

/// Runs a command whose output matters only if it fails.
pub(crate) fn run(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status();
    let status = status.with_context(|| format!("{}", command.get_program().display()))?;
    ensure!(
        status.success(),
        "{command:?}: {status}: {}",
        fs::read_to_string(log).unwrap_or_default()
    );
    Ok(())
}

/// This workspace's binary.
pub(crate) struct Magikrun {
    binary: PathBuf,
    dir: PathBuf,
    state: PathBuf,
}

impl Magikrun {
    /// What its image is called, in the layout and in its store.
    pub(crate) const IMAGE: &'static str = "localhost/busybox:bench";

    /// `run` is a tmpfs, as is `/run`, where its state is by default.
    pub(crate) fn new(binary: PathBuf, dir: &Path, run: &Path) -> Result<Self> {
        let dir = dir.join("magikrun");
        fs::create_dir_all(&dir)?;
        let state = run.join("magikrun");
        Ok(Self { binary, dir, state })
    }

    pub(crate) fn magikrun(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--state-dir")
            .arg(&self.state)
            .args(args);
        run(&mut command, &self.dir.join("log"))
    }

    fn file(&self, containers: usize) -> String {
        self.dir.join(format!("{containers}.json")).display().to_string()
    }
}

impl Contender for Magikrun {
    fn name(&self) -> &'static str {
        "magikrun"
    }

    fn prepare(&self, layout: &Layout) -> Result<()> {
        for containers in super::pods::SIZES {
            fs::write(self.file(containers), manifest(Self::IMAGE, containers))?;
        }
        self.magikrun(&["image", "pull", &layout.reference(Self::IMAGE)])
    }

    fn up(&self, containers: usize) -> Result<()> {
        self.magikrun(&["pod", "run", "-f", &self.file(containers)])
    }

    fn down(&self, _containers: usize) -> Result<()> {
        self.magikrun(&["pod", "delete", "--force", "bench"])
    }
}

/// This root's podman with crun: from a manifest, or container by container.
pub(crate) struct Podman {
    dir: PathBuf,
    /// Where its `--runroot` and `--tmpdir` are: a tmpfs, as `/run` is.
    run: PathBuf,
    from_manifest: bool,
}

/// What the image is called in podman's store.
const PODMAN_IMAGE: &str = "localhost/busybox:bench";

impl Podman {
    /// Its image in the layout: it takes no full name there.
    pub(crate) const TAG: &'static str = "busybox";

    /// Podman, if it and what it needs are installed.
    pub(crate) fn new(dir: &Path, run: &Path, from_manifest: bool) -> Result<Option<Self>> {
        if !["podman", "crun", "conmon", "catatonit"]
            .into_iter()
            .all(host::has_program)
            && !Path::new("/usr/libexec/podman/catatonit").exists()
        {
            return Ok(None);
        }
        let dir = dir.join("podman");
        fs::create_dir_all(&dir)?;
        let run = run.join("podman");
        fs::create_dir_all(&run)?;
        // Limits that this machine's hard limits allow, and no journal.
        let conf = "[containers]\ndefault_ulimits=[\"nofile=20000:20000\",\"nproc=32768:32768\"]\n[engine]\nevents_logger=\"file\"\n";
        fs::write(dir.join("containers.conf"), conf)?;
        for containers in super::pods::SIZES {
            fs::write(
                dir.join(format!("{containers}.yaml")),
                manifest(PODMAN_IMAGE, containers),
            )?;
        }
        Ok(Some(Self {
            dir,
            run,
            from_manifest,
        }))
    }

    fn podman(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        // Podman 5 says on every call that there will be no support of cgroup v1.
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--runroot")
            .arg(self.run.join("run"))
            .arg("--tmpdir")
            .arg(self.run.join("tmp"))
            .args([
                "--cgroup-manager",
                "cgroupfs",
                "--storage-driver",
                "overlay",
                "--runtime",
                "crun",
            ])
            .args(args);
        run(&mut command, &self.dir.join("log"))
    }

    fn file(&self, containers: usize) -> String {
        self.dir.join(format!("{containers}.yaml")).display().to_string()
    }
}

impl Contender for Podman {
    fn name(&self) -> &'static str {
        if self.from_manifest {
            "podman kube play"
        } else {
            "podman pod create + run"
        }
    }

    fn prepare(&self, layout: &Layout) -> Result<()> {
        self.podman(&["pull", "--quiet", &layout.reference(Self::TAG)])?;
        let id = fs::read_to_string(self.dir.join("log"))?;
        self.podman(&["tag", id.trim(), PODMAN_IMAGE])
    }

    fn up(&self, containers: usize) -> Result<()> {
        if self.from_manifest {
            return self.podman(&["kube", "play", "--network", "none", &self.file(containers)]);
        }
        self.podman(&["pod", "create", "--name", "bench", "--network", "none"])?;
        for n in 0..containers {
            self.podman(&[
                "run",
                "-d",
                "--pod",
                "bench",
                "--name",
                &format!("c{n}"),
                PODMAN_IMAGE,
                PAYLOAD,
                "1000",
            ])?;
        }
        Ok(())
    }

    fn down(&self, containers: usize) -> Result<()> {
        if self.from_manifest {
            return self.podman(&["kube", "down", &self.file(containers)]);
        }
        self.podman(&["pod", "rm", "--force", "-t", "0", "bench"])
    }
}
