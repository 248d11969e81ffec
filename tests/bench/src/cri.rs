//! containerd's plugin for Kubernetes with crun, called as a kubelet calls it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use magikrun_test_images::Layout;

use super::{
    contender::{Contender, run},
    measure::PAYLOAD,
    scene,
};

const IMAGE: &str = "localhost/busybox:busybox";
const PAUSE_IMAGE: &str = "localhost/busybox:pause";

/// A containerd of the bench's own; its processes end with the bench's world.
pub(crate) struct Cri {
    dir: PathBuf,
    client: PathBuf,
    daemon: Child,
}

impl Cri {
    /// The image of the pods' first processes, in the layout.
    pub(crate) const PAUSE_TAG: &'static str = "pause";
    /// What that runs: no program of the payload's name.
    pub(crate) const PAUSE: &'static [&'static str] = &["tail", "-f", "/dev/null"];

    /// Starts containerd 2 with its state on the tmpfs `run`; the client is beside `magikrun`.
    pub(crate) fn start(magikrun: &Path, dir: &Path, run: &Path) -> Result<Self> {
        let (dir, state) = (dir.join("containerd"), run.join("containerd"));
        for directory in [&dir, &state] {
            fs::create_dir_all(directory)?;
        }
        let config = format!(
            "version = 3\nroot = {root:?}\nstate = {state:?}\n\
             [grpc]\naddress = {socket:?}\n\
             [plugins.'io.containerd.internal.v1.opt']\npath = {opt:?}\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = {PAUSE_IMAGE:?}\n\
             [plugins.'io.containerd.cri.v1.runtime']\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'crun'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun]\n\
             runtime_type = 'io.containerd.runc.v2'\n\
             [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun.options]\n\
             BinaryName = '/usr/bin/crun'\n",
            root = dir.join("root"),
            socket = dir.join("socket"),
            opt = dir.join("opt"),
        );
        fs::write(dir.join("config.toml"), config)?;
        let log = File::create(dir.join("containerd.log"))?;
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .args(["--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("containerd")?;
        let client = magikrun.with_file_name(scene::CRI_CLIENT);
        ensure!(client.is_file(), "{}: missing", client.display());
        let started = Self { dir, client, daemon };
        started.wait_until_up()?;
        Ok(started)
    }

    fn ctr(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.dir.join("socket"))
            .args(["--namespace", "k8s.io"])
            .args(args);
        run(&mut command, &self.dir.join("log"))
    }

    fn wait_until_up(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.ctr(&["version"]) {
            let log = self.dir.join("containerd.log");
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "containerd: {error:#}: {}",
                fs::read_to_string(log).unwrap_or_default()
            );
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn call(&self, operation: &str, args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.client);
        command.arg(operation).arg(self.dir.join("socket")).args(args);
        run(&mut command, &self.dir.join("log"))
    }
}

impl Contender for Cri {
    fn name(&self) -> &'static str {
        "containerd, CRI"
    }

    fn prepare(&self, layout: &Layout) -> Result<()> {
        let archive = self.dir.join("images.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(layout.dir()).arg("-cf").arg(&archive).arg(".");
        run(&mut tar, &self.dir.join("log"))?;
        let archive = archive.display().to_string();
        self.ctr(&["images", "import", "--base-name", "localhost/busybox", &archive])?;
        // The plugin learns of an image from an event.
        let begun = Instant::now();
        while let Err(error) = self.up(1) {
            if begun.elapsed() > Duration::from_secs(15) {
                let log = fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default();
                return Err(error.context(log.lines().last().unwrap_or_default().to_owned()));
            }
            sleep(Duration::from_millis(200));
        }
        self.down(1)
    }

    fn up(&self, containers: usize) -> Result<()> {
        self.call("up", &["bench", IMAGE, &containers.to_string(), PAYLOAD, "1000"])?;
        // The client has printed the sandbox's id.
        Ok(fs::rename(self.dir.join("log"), self.dir.join("sandbox"))?)
    }

    fn down(&self, _containers: usize) -> Result<()> {
        let id = fs::read_to_string(self.dir.join("sandbox"))?;
        self.call("down", &[id.trim()])
    }

    fn daemon(&self) -> Option<u32> {
        Some(self.daemon.id())
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        // What it has started ends with the world.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
