//! What the tests of the binary share.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use tempfile::TempDir;

/// The name of the image in [`Host::busybox_layout`].
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// A host of its own: roots that go away with it.
pub struct Host {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Its standard output, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Its one line of standard error, if it failed with `code`.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        let line = self.stderr.strip_suffix('\n').unwrap_or(&self.stderr);
        assert!(
            line.starts_with("magikrun: ") && !line.contains('\n'),
            "not one line of ours: {:?}",
            self.stderr
        );
        assert_eq!(self.stdout, "", "a failure prints nothing else");
        line.to_owned()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Host {
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new()
                .prefix("magikrun-cli-")
                .tempdir()
                .unwrap(),
        }
    }

    /// A path below the host's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary with this host's roots and nothing else of the environment that matters to it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_magikrun-engine"));
        command
            .env("MAGIKRUN_ROOT", self.path("data"))
            .env("MAGIKRUN_STATE_DIR", self.path("state"))
            // What is fastest here is not for every test to find out.
            .env("MAGIKRUN_VM_DRIVER", "qemu-tcg");
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.command().args(args).output().unwrap().into()
    }

    pub fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may well not read it.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap().into()
    }

    /// An OCI layout with busybox in it, under its full name.
    pub fn busybox_layout(&self) -> Layout {
        let mut layout = Layout::create(self.path("layout")).unwrap();
        let mut layer = LayerBuilder::new();
        layer.busybox().unwrap();
        let config = ImageConfig {
            working_dir: "/root".into(),
            ..ImageConfig::command(&["sh"])
        };
        layout.add(BUSYBOX, &[&layer.finish().unwrap()], &config).unwrap();
        layout
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}
