//! The binary, as a user runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::{
    Scene,
    images::{BUSYBOX, busybox_layout},
};

/// No command of a test takes this long; one that hangs fails its test instead of the whole run.
const TIMEOUT_SECONDS: &str = "60";

/// Where the binaries are for a user who does not come by cargo's directory.
static BINARIES: OnceLock<PathBuf> = OnceLock::new();

/// From here on [`binary`] is in this directory.
pub(crate) fn find_binaries_in(directory: PathBuf) {
    BINARIES.set(directory).expect("said once");
}

/// The binary under test, in the directory cargo puts it beside the tests.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(directory) = BINARIES.get() {
        return directory.join("magikrun");
    }
    let exe = std::env::current_exe().expect("own executable");
    // target/<profile>/deps/<test>: two up.
    let binary = exe.ancestors().nth(2).expect("target directory").join("magikrun");
    assert!(
        binary.is_file(),
        "{} is missing: cargo build -p magikrun -p magikrun-cli --features magikrun-cli/test-hooks",
        binary.display()
    );
    binary
}

/// magikrun with a data root and a state root of its own.
#[derive(Debug, Clone)]
pub struct Magikrun {
    /// `--root`.
    pub root: PathBuf,
    /// `--state-dir`.
    pub state: PathBuf,
    manifests: PathBuf,
    variables: Vec<(&'static str, &'static str)>,
}

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Magikrun {
    /// Roots below the scene's directory.
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self::with_roots(scene, scene.dir().join("root"), scene.dir().join("state"))
    }

    /// Roots where they are said to be.
    ///
    /// # Panics
    /// If the scene's directory cannot be written.
    #[must_use]
    pub fn with_roots(scene: &Scene, root: PathBuf, state: PathBuf) -> Self {
        let manifests = scene.dir().join("manifests");
        fs::create_dir_all(&manifests).expect("manifests");
        Self {
            root,
            state,
            manifests,
            variables: Vec::new(),
        }
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    /// With [`BUSYBOX`] in its store, unpacked: a census sees what a pod leaves and nothing else.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn with_busybox(scene: &Scene) -> Self {
        let magikrun = Self::new(scene);
        let layout = busybox_layout(&scene.dir().join("layout"));
        magikrun.ok(&["image", "pull", "-q", &layout.reference(BUSYBOX)]);
        // The first pod of all unpacks the image, and makes directories that stay.
        magikrun.ok(&["pod", "run", "-q", "--rm", BUSYBOX, "busybox", "true"]);
        magikrun
    }

    /// Both roots, for a census.
    #[must_use]
    pub fn roots(&self) -> [&Path; 2] {
        [&self.root, &self.state]
    }

    /// The command, to be started by the caller.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.prepare(Command::new(binary()), args)
    }

    fn prepare(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .args(args)
            .env("MAGIKRUN_ROOT", &self.root)
            .env("MAGIKRUN_STATE_DIR", &self.state)
            // What is fastest here is not for every test to find out.
            .env("MAGIKRUN_VM_DRIVER", "qemu-tcg");
        command.envs(self.variables.iter().copied());
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it cannot be started or does not end.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut timeout = Command::new("timeout");
        timeout.args(["--kill-after=5", TIMEOUT_SECONDS]).arg(binary());
        let mut command = self.prepare(timeout, args);
        let out = command.output().expect("timeout(1)");
        let output = Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        };
        assert!(
            out.status.code().is_some() && output.code != 124,
            "{command:?} did not end: {output:?}"
        );
        output
    }

    /// Runs a command that must succeed and returns its standard output.
    ///
    /// # Panics
    /// If it does not succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.code, 0, "magikrun {args:?}: {}", out.stderr);
        out.stdout
    }

    /// Runs a command with `--format json` and parses its answer.
    ///
    /// # Panics
    /// If it fails or answers no JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--format", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("magikrun {args:?}: {e}: {out}"))
    }

    /// Runs a command that must fail with one line on standard error and nothing on standard output; returns the line.
    ///
    /// # Panics
    /// If it succeeds, or says more or less than a line.
    #[track_caller]
    pub fn error(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_ne!(out.code, 0, "magikrun {args:?} succeeded: {}", out.stdout);
        assert!(
            out.code < 126,
            "magikrun {args:?}: exit code {}: {}",
            out.code,
            out.stderr
        );
        assert_eq!(
            out.stderr.trim_end().lines().count(),
            1,
            "magikrun {args:?} says not one line: {}",
            out.stderr
        );
        assert_eq!(out.stdout, "", "magikrun {args:?}");
        out.stderr
    }

    /// Writes a manifest to a file of its own and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn manifest(&self, text: impl AsRef<[u8]>) -> String {
        let number = fs::read_dir(&self.manifests).expect("manifests").count();
        let path = self.manifests.join(format!("{number}.yaml"));
        fs::write(&path, text).expect("manifest");
        path.display().to_string()
    }

    /// `pod run -f` of a manifest.
    pub fn pod_run(&self, manifest: &Value) -> Output {
        let file = self.manifest(manifest.to_string());
        self.run(&["pod", "run", "-f", &file])
    }

    /// `pod run -f`, started and not waited for.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn_pod_run(&self, manifest: &Value, env: &[(&str, &str)]) -> Child {
        let file = self.manifest(manifest.to_string());
        let mut command = self.command(&["pod", "run", "-f", &file]);
        command
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("magikrun")
    }

    /// The names `pod ls` knows.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        let list = self.json(&["pod", "ls"]);
        let pods = list.as_array().expect("an array of pods").iter();
        pods.map(|p| p["name"].as_str().expect("a name").to_owned())
            .collect()
    }
}

/// What is said of manifests, without `:LINE:COLUMN` after the file's name, which a mistake has where it is about a
/// field that the text has.
#[must_use]
pub fn without_place(said: &str) -> String {
    let lines = said.split('\n').map(|line| {
        let (place, rest) = line.split_once(": ").unwrap_or((line, ""));
        // `magikrun: FILE:LINE:COLUMN: …`, or without the program's name.
        let (before, (place, rest)) = match place {
            "magikrun" => ("magikrun: ", rest.split_once(": ").unwrap_or((rest, ""))),
            _ => ("", (place, rest)),
        };
        let mut parts = place.rsplitn(3, ':');
        let is_number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u64>().is_ok());
        if !is_number(parts.next()) || !is_number(parts.next()) {
            return line.to_owned();
        }
        format!("{before}{}: {rest}", parts.next().unwrap_or_default())
    });
    lines.collect::<Vec<_>>().join("\n")
}
