//! One pod of one test, and the tidying up after it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use magik_infra::{
    ControlClient, ControlError, ExecRequest,
    logs::LogOptions,
    plan::{ContainerPlan, PodPlan, RootfsPlan, TmpfsPlan, UpperPlan},
    status::PodStatus,
};
use serde_json::json;
use tokio::net::UnixListener;

/// How long anything in a test may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    dir: tempfile::TempDir,
    cgroup: String,
    init: Option<Child>,
    pub(crate) launch: Option<ControlClient>,
    pub(crate) plan: PodPlan,
}

impl World {
    /// A pod without containers whose init is not started yet.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("magik-infra-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in [
            "pod.pending",
            "logs",
            "layer/bin",
            "layer/tmp",
            "layer/proc",
            "layer/dev",
            "layer/etc",
        ] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let bin = dir.path().join("layer/bin");
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for name in [
            "sh", "cat", "sleep", "echo", "id", "env", "pwd", "stty", "tty", "ps", "nc", "true", "seq",
            "touch", "ls", "kill", "yes", "head",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        let cgroup = format!(
            "/magikrun-test-infra-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let plan = PodPlan {
            id: "test-pod".into(),
            name: "test".into(),
            namespace: "default".into(),
            labels: [("app".to_owned(), "test".to_owned())].into(),
            annotations: Default::default(),
            published: vec![],
            tmpfs: Vec::new(),
            data: Vec::new(),
            init_containers: Vec::new(),
            containers: Vec::new(),
            grace_period_s: 1,
            active_deadline_s: None,
            ..PodPlan::default()
        };
        Self {
            dir,
            cgroup,
            init: None,
            launch: None,
            plan,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn container(mut self, name: &str, script: &str) -> Self {
        let container = self.container_plan(name, &["sh", "-c", script]);
        self.plan.containers.push(container);
        self
    }

    pub(crate) fn program(mut self, name: &str, args: &[&str]) -> Self {
        let container = self.container_plan(name, args);
        self.plan.containers.push(container);
        self
    }

    pub(crate) fn init_container(mut self, name: &str, script: &str) -> Self {
        let container = self.container_plan(name, &["sh", "-c", script]);
        self.plan.init_containers.push(container);
        self
    }

    pub(crate) fn grace(mut self, seconds: u64) -> Self {
        self.plan.grace_period_s = seconds;
        self
    }

    pub(crate) fn deadline(mut self, seconds: u64) -> Self {
        self.plan.active_deadline_s = Some(seconds);
        self
    }

    /// An emptyDir in memory, mounted at `/shared` of every container.
    pub(crate) fn shared_tmpfs(mut self) -> Self {
        let target = self.path("shared");
        fs::create_dir(&target).unwrap();
        self.plan.tmpfs.push(TmpfsPlan {
            group: None,
            shared_memory: false,
            target,
            size: Some(1 << 20),
        });
        self
    }

    fn container_plan(&self, name: &str, args: &[&str]) -> ContainerPlan {
        let bundle = self.path(&format!("bundles/{name}"));
        for directory in ["rootfs", "upper", "work"] {
            fs::create_dir_all(bundle.join(directory)).unwrap();
        }
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}),
        ];
        if let Some(shared) = self.plan.tmpfs.first() {
            mounts.push(json!({"destination": "/shared", "type": "bind", "source": shared.target, "options": ["rbind"]}));
        }
        let capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"];
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "POD=test"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 999, "soft": 999}],
            },
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}],
                "cgroupsPath": format!("{}/{name}", self.cgroup),
            },
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        ContainerPlan {
            name: name.to_owned(),
            image: "busybox".to_owned(),
            image_id: None,
            rootfs: RootfsPlan::Overlay {
                lower: vec![self.path("layer")],
                upper: Some(UpperPlan {
                    upper: bundle.join("upper"),
                    work: bundle.join("work"),
                }),
            },
            bundle,
            log: self.path(&format!("logs/{name}.log")),
            attach: None,
            lifecycle: magik_infra::plan::Lifecycle::default(),
            message: None,
            console: magik_infra::plan::ConsolePlan::default(),
            ephemeral: None,
        }
    }

    /// Starts the init and takes its launch connection.
    pub(crate) async fn start_init(&mut self) {
        let listener = UnixListener::bind(self.path("launch.sock")).unwrap();
        let log = fs::File::create(self.path("init.log")).unwrap();
        let init = Command::new("unshare")
            .args([
                "--fork",
                "--kill-child",
                "--pid",
                "--mount",
                "--net",
                "--ipc",
                "--uts",
                "--propagation",
                "slave",
                "--mount-proc",
            ])
            .args(["sh", "-c", "busybox ip link set lo up; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args([
                super::init::ARGUMENT,
                self.dir.path().to_str().unwrap(),
                &self.cgroup,
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.init = Some(init);
        let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept())
            .await
            .expect("the init connects")
            .unwrap();
        self.launch = Some(ControlClient::over(stream).await.unwrap());
    }

    /// Starts the pod; what failed, if it did.
    pub(crate) async fn launch(&mut self) -> Result<(), ControlError> {
        self.start_init().await;
        let launching = self.launch.as_ref().unwrap().start_sandbox(&self.plan).await?;
        tokio::time::timeout(PATIENCE, launching.ready())
            .await
            .expect("the pod starts or fails")
    }

    /// Starts and commits the pod.
    pub(crate) async fn up(mut self) -> Self {
        if let Err(error) = self.launch().await {
            panic!("{error}\n{}", fs::read_to_string(self.path("init.log")).unwrap());
        }
        self.commit();
        self.launch.as_ref().unwrap().commit().await.unwrap();
        self
    }

    /// What the launcher does first to commit.
    pub(crate) fn commit(&self) {
        fs::rename(self.path("pod.pending"), self.path("pod")).unwrap();
    }

    /// A new connection to the committed pod.
    pub(crate) async fn client(&self) -> ControlClient {
        ControlClient::connect(&self.path("pod/control.sock"))
            .await
            .unwrap()
    }

    /// Runs a program in a container: output and exit code.
    pub(crate) async fn exec(&self, container: &str, args: &[&str]) -> (String, i32) {
        let request = ExecRequest::new(container, args.iter().copied());
        let session = self.client().await.exec(&request).await.unwrap();
        let (stdout, stderr, code) = session.collect(1 << 20).await.unwrap();
        (
            String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap(),
            code,
        )
    }

    /// A container's log as it stands.
    pub(crate) async fn logs(&self, container: &str, options: LogOptions) -> String {
        let mut output = self
            .client()
            .await
            .logs(container, &options, false)
            .await
            .unwrap();
        let mut all = Vec::new();
        while let Some(chunk) = output.next().await.unwrap() {
            all.extend(chunk.data);
        }
        String::from_utf8(all).unwrap()
    }

    /// Waits until the container's log holds a text.
    pub(crate) async fn logged(&self, container: &str, text: &str) {
        let log = self.path(&format!("logs/{container}.log"));
        eventually(&format!("{container} writes {text}"), || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains(text))
        })
        .await;
    }

    /// Waits for the init's end and says how it ended.
    pub(crate) async fn outcome(&mut self) -> String {
        let mut init = self.init.take().unwrap();
        let mut ended = false;
        eventually("the init ends", || {
            ended = ended || init.try_wait().unwrap().is_some();
            ended
        })
        .await;
        fs::read_to_string(self.path("outcome"))
            .unwrap_or_else(|_| fs::read_to_string(self.path("init.log")).unwrap())
    }

    /// The final status, as it lies in the state directory.
    pub(crate) fn status_file(&self) -> PodStatus {
        let name = if self.path("pod").exists() {
            "pod/status.json"
        } else {
            "pod.pending/status.json"
        };
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// The init's pid on the host.
    pub(crate) fn init_pid(&self) -> u32 {
        let outer = self.init.as_ref().unwrap().id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        children.trim().parse().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut init) = self.init.take() {
            // With --kill-child the init, and so the whole pod, goes with it.
            let _ = init.kill();
            let _ = init.wait();
        }
        let gone = Instant::now() + PATIENCE;
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroup(&controller.path().join(self.cgroup.trim_start_matches('/')), gone);
        }
        remove_cgroup(
            &Path::new("/sys/fs/cgroup").join(self.cgroup.trim_start_matches('/')),
            gone,
        );
    }
}

fn remove_cgroup(path: &Path, until: Instant) {
    if !path.is_dir() {
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path(), until);
        }
    }
    // Processes that were killed leave it a little later.
    while fs::remove_dir(path).is_err() && path.is_dir() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
