//! Debian's containerd, with everything it writes in a directory of the test's.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context as _, Result};

use super::{Client, eventually};

/// The daemon, ended with its test.
#[derive(Debug)]
pub struct Containerd {
    dir: PathBuf,
    child: Mutex<Child>,
}

impl Containerd {
    /// Starts it with its own files in `dir` and the tables `plugins` in its configuration; returns when it answers.
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    pub fn start(dir: &Path, plugins: &str) -> Result<Self> {
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{plugins}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n[grpc]\naddress = {:?}\n",
            path("containerd-root"),
            path("containerd-state"),
            path("containerd-opt"),
            path("containerd.sock"),
        );
        std::fs::write(path("containerd.toml"), config)?;
        let daemon = Self {
            dir: dir.to_owned(),
            child: Mutex::new(spawn(dir)?),
        };
        daemon.wait_until_up()?;
        Ok(daemon)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// `ctr` with these arguments first.
    #[must_use]
    pub fn ctr(&self, arguments: &[&str]) -> Client {
        let socket = self.socket().display().to_string();
        let globals: Vec<_> = ["-a", &socket]
            .iter()
            .chain(arguments)
            .map(|s| (*s).to_owned())
            .collect();
        Client::new("ctr", &globals, &[], self.dir.clone())
    }

    /// Kills it; its shims and their containers live on.
    ///
    /// # Errors
    /// It cannot be killed.
    ///
    /// # Panics
    /// If another thread panicked in here.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().expect("nobody panics");
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it again after [`kill`](Self::kill).
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    ///
    /// # Panics
    /// If another thread panicked in here.
    pub fn start_again(&self) -> Result<()> {
        *self.child.lock().expect("nobody panics") = spawn(&self.dir)?;
        self.wait_until_up()
    }

    fn wait_until_up(&self) -> Result<()> {
        let ctr = self.ctr(&[]);
        eventually("containerd answers", || {
            ctr.run("version").is_ok_and(|o| o.exit == 0)
        })
        .with_context(|| std::fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Shims, and what they run, end with the test's world.
        let _ = self.kill();
    }
}

fn spawn(dir: &Path) -> Result<Child> {
    let log = File::options()
        .append(true)
        .create(true)
        .open(dir.join("containerd.log"))?;
    Command::new("containerd")
        .arg("--config")
        .arg(dir.join("containerd.toml"))
        .args(["--log-level", "error"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("containerd")
}
