//! Bundles, and running them to their end.

#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "each test file uses its own part; what is skipped is said"
)]

use std::{
    fs,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_oci::{ContainerId, CreateOptions, Error, Exit, OciRuntime, Stdio};
use oci_wasm::{Loader, WasmtimeRuntime};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Says why a test cannot run here, and whether it cannot.
pub(crate) fn skipped(test: &str) -> bool {
    let missing = magikrun_test_images::wasm_compiler_missing();
    if let Some(why) = &missing {
        eprintln!("SKIPPED {test}: {why}");
    }
    missing.is_some()
}

/// A runtime, and a place for its bundles.
pub(crate) struct Host {
    pub(crate) directory: TempDir,
    pub(crate) runtime: WasmtimeRuntime,
}

/// A container that ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) message: Option<String>,
}

/// The output of a running container.
pub(crate) struct Output {
    stdout: std::thread::JoinHandle<String>,
    stderr: std::thread::JoinHandle<String>,
}

pub(crate) fn loader() -> Loader {
    // Shared by all tests, so that a program is compiled once.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oci-wasm-cache");
    Loader::builder(cache).helper(compiler()).build()
}

/// The compiler process of these tests.
pub(crate) fn compiler() -> PathBuf {
    env!("CARGO_BIN_EXE_oci-wasm-compiler").into()
}

pub(crate) fn id(name: &str) -> ContainerId {
    name.parse().unwrap()
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            runtime: WasmtimeRuntime::new(loader()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A bundle of a module from a file.
    pub(crate) fn bundle(
        &self,
        name: &str,
        module: &Path,
        args: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> PathBuf {
        self.bundle_of(name, &fs::read(module).unwrap(), args, edit)
    }

    /// A bundle of a module.
    pub(crate) fn bundle_of(
        &self,
        name: &str,
        module: &[u8],
        args: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> PathBuf {
        let bundle = self.path(name);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(bundle.join("rootfs/app.wasm"), module).unwrap();
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/app.wasm"],
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/"
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": {},
        });
        let all = spec["process"]["args"].as_array_mut().unwrap();
        all.extend(args.iter().map(|a| json!(a)));
        edit(&mut spec);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    /// Creates a container whose output is kept.
    pub(crate) async fn create(
        &self,
        name: &str,
        bundle: &Path,
        input: Option<OwnedFd>,
    ) -> Result<Output, Error> {
        let (out, stdout) = std::io::pipe().unwrap();
        let (err, stderr) = std::io::pipe().unwrap();
        let stdio = Stdio {
            stdin: input,
            stdout: Some(stdout.into()),
            stderr: Some(stderr.into()),
        };
        self.runtime
            .create(&id(name), bundle, stdio, CreateOptions::default())
            .await?;
        Ok(Output {
            stdout: read(out),
            stderr: read(err),
        })
    }

    /// Runs a container to its end.
    pub(crate) async fn run(&self, name: &str, bundle: &Path) -> Outcome {
        let output = self.create(name, bundle, None).await.unwrap();
        self.runtime.start(&id(name)).await.unwrap();
        self.finish(name, output).await
    }

    pub(crate) async fn finish(&self, name: &str, output: Output) -> Outcome {
        let exit = tokio::time::timeout(PATIENCE, self.runtime.wait(&id(name)))
            .await
            .expect("the container does not end")
            .unwrap();
        Outcome {
            exit,
            stdout: output.stdout.join().unwrap(),
            stderr: output.stderr.join().unwrap(),
            message: self.runtime.exit_message(&id(name)).unwrap(),
        }
    }

    /// Runs the tool with these arguments.
    pub(crate) async fn tool(&self, args: &[&str], edit: impl FnOnce(&mut Value)) -> Outcome {
        let module = magikrun_test_images::tool_wasm().unwrap();
        let name = format!("c{}", self.runtime.list().await.unwrap().len());
        let bundle = self.bundle(&name, &module, args, edit);
        self.run(&name, &bundle).await
    }

    /// What creating a container of these bytes says.
    pub(crate) async fn refusal(&self, module: &[u8]) -> String {
        let name = format!("r{}", module.len());
        let bundle = self.bundle_of(&name, module, &[], |_| {});
        let error = self
            .create(&name, &bundle, None)
            .await
            .err()
            .expect("it is accepted");
        let message = error.to_string();
        assert!(!message.contains('\n'), "one line: {message:?}");
        assert!(self.runtime.list().await.unwrap().is_empty(), "nothing stays");
        message
    }
}

fn read(mut pipe: std::io::PipeReader) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// A bind mount.
pub(crate) fn mount(spec: &mut Value, source: &Path, destination: &str, options: &[&str]) {
    spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": options,
    }));
}

pub(crate) fn annotate(spec: &mut Value, name: &str, value: &str) {
    spec["annotations"][name] = json!(value);
}
