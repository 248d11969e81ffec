//! A world per test: roots in a temporary directory, an image, and what has to be gone afterwards.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    time::{Duration, Instant},
};

use magik_pri::{
    ExecEvent, ExecRequest, LogOptions, PodRuntime, PodSpec, Pods, Result, Roots, RunOptions, native::Native,
    status::PodStatus,
};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use serde_json::{Value, json};

/// The source of mounts that tests make for themselves.
pub(crate) const OWN_DISK: &str = "own-disk";

pub(crate) type Test = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A test by the name of its function.
macro_rules! test {
    ($name:ident) => {
        (stringify!($name), |world| Box::pin($name(world)))
    };
}
pub(crate) use test;

/// Runs one test in a world of its own, which is empty again at its end.
pub(crate) fn run(name: &str, test: Test) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = World::new();
    runtime.block_on(async {
        test(&world).await;
        for pod in world.runtime.list_pods().await.unwrap() {
            world.runtime.delete_pod(&pod.id, true).await.unwrap();
        }
    });
    world.assert_empty();
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) runtime: Pods,
    pub(crate) image: String,
}

/// A test that failed does not leave its pods behind.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Ok(tokio) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        tokio.block_on(async {
            for pod in self.runtime.list_pods().await.unwrap_or_default() {
                let _ = self.runtime.delete_pod(&pod.id, true).await;
            }
        });
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut layer = LayerBuilder::new();
        layer.busybox().unwrap();
        let mut layout = Layout::create(dir.path().join("layout")).unwrap();
        layout
            .add("busybox", &[&layer.finish().unwrap()], &ImageConfig::default())
            .unwrap();
        let roots = Roots {
            data: dir.path().join("data"),
            state: dir.path().join("state"),
        };
        Self {
            image: layout.reference("busybox"),
            runtime: Pods::new(roots).with(Native::new()),
            dir,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots {
            data: self.path("data"),
            state: self.path("state"),
        }
    }

    /// Another runtime on the same roots.
    pub(crate) fn another_runtime(&self) -> Pods {
        Pods::new(self.roots()).with(Native::new())
    }

    /// A container that runs a shell script.
    pub(crate) fn container(&self, name: &str, script: &str) -> Value {
        json!({"name": name, "image": self.image, "command": ["sh", "-c", script]})
    }

    /// A pod whose containers run once, if it does not say something else.
    pub(crate) fn pod(&self, name: &str, spec: &Value) -> PodSpec {
        let mut spec = spec.clone();
        spec.as_object_mut()
            .unwrap()
            .entry("restartPolicy")
            .or_insert("Never".into());
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        PodSpec::from_value(pod).unwrap()
    }

    /// A pod of containers that run shell scripts.
    pub(crate) fn scripts(&self, name: &str, scripts: &[(&str, &str)]) -> PodSpec {
        let containers: Vec<Value> = scripts
            .iter()
            .map(|(name, script)| self.container(name, script))
            .collect();
        self.pod(
            name,
            &json!({"containers": containers, "terminationGracePeriodSeconds": 1}),
        )
    }

    pub(crate) async fn run(&self, spec: &PodSpec) -> Result<PodStatus> {
        self.run_by(&self.runtime, spec).await
    }

    pub(crate) async fn run_by(&self, runtime: &Pods, spec: &PodSpec) -> Result<PodStatus> {
        let status = runtime.run_pod(spec, RunOptions::default()).await?;
        std::fs::write(self.path("tag"), &status.id[status.id.len() - 8..]).unwrap();
        Ok(status)
    }

    pub(crate) async fn log(&self, pod: &str, container: &str) -> String {
        let options = LogOptions {
            container: Some(container.into()),
            ..LogOptions::default()
        };
        let mut log = self.runtime.logs(pod, options).await.unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = log.next().await.unwrap() {
            text.extend(chunk.data);
        }
        String::from_utf8(text).unwrap()
    }

    /// The log, once it holds `text`.
    pub(crate) async fn log_until(&self, pod: &str, container: &str, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = self.log(pod, container).await;
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {log:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What a shell script in a container prints, and its exit code.
    pub(crate) async fn exec(&self, pod: &str, container: &str, script: &str) -> (String, i32) {
        self.exec_by(&self.runtime, pod, container, script).await
    }

    pub(crate) async fn exec_by(
        &self,
        runtime: &Pods,
        pod: &str,
        container: &str,
        script: &str,
    ) -> (String, i32) {
        let request = ExecRequest::new(container, ["sh", "-c", script]);
        let mut session = runtime.exec(pod, request).await.unwrap();
        let (mut text, mut code) = (Vec::new(), None);
        while let Some(output) = session.output.next().await.unwrap() {
            match output {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => text.extend(bytes),
                ExecEvent::Exited(exit) => code = Some(exit),
            }
        }
        (String::from_utf8(text).unwrap(), code.expect("an exit code"))
    }

    /// Every file below both roots that belongs to a pod, every cgroup and every mount of this world.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in [
            "state/pods",
            "state/names",
            "state/sandboxes",
            "state/intents",
            "data/pods",
            "data/leases",
            "data/tmp",
        ] {
            let entries = std::fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
            found.extend(
                entries
                    .map(|e| e.path().display().to_string())
                    .filter(|p| !p.ends_with("/.lock")),
            );
        }
        let tag = self.tag();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let entries = std::fs::read_dir(hierarchy.path().join("magikrun"))
                .into_iter()
                .flatten()
                .flatten();
            let paths = entries.map(|e| e.path().display().to_string());
            found.extend(paths.filter(|p| tag.as_ref().is_some_and(|tag| p.ends_with(tag))));
        }
        let here = self.dir.path().to_str().unwrap().to_owned();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let mounts = std::fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            found.extend(
                mounts
                    .lines()
                    // A disk of a test's own was in the mount table that another test's pod copied meanwhile.
                    .filter(|line| line.contains(&here) && !line.contains("nr_inodes="))
                    .filter(|line| !line.contains(OWN_DISK))
                    .map(str::to_owned),
            );
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&here) {
                found.push(format!("{}: {line}", process.path().display()));
            }
        }
        found
    }

    /// The end of every pod id of this world; known once a pod has been run.
    fn tag(&self) -> Option<String> {
        std::fs::read_to_string(self.path("tag")).ok()
    }

    /// What was given up is removed in the background.
    pub(crate) async fn assert_empty_soon(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let leftovers = self.leftovers();
            if leftovers.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {leftovers:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn assert_empty(&self) {
        let leftovers = self.leftovers();
        assert!(leftovers.is_empty(), "left behind: {leftovers:#?}");
    }
}
