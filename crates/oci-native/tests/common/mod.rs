//! What every test needs: a busybox root file system, a bundle, a runtime, and proof that nothing is left.
//!
//! The test programs need neither cargo nor the sources when they run, so they can be copied to another machine, or into
//! a guest with nothing but cgroup v2: `oci-native-worker` is looked for beside them, too, and `MAGIKRUN_TEST_BUSYBOX`
//! names a static busybox if that is not `/bin/busybox`. `sh`, `sleep` and `kill` must be in `PATH`; what needs more says
//! `SKIPPED`. Without nextest: `--test-threads=1`, for some look at the children of their process.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test binary uses its part"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use magik_oci::{ContainerId, CreateOptions, ExecIo, ExecOptions, Exit, OciRuntime, Stdio};
use oci_native::NativeRuntime;
use serde_json::{Value, json};

/// The helper binary for workers of these multi-threaded test processes.
pub fn helper() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let beside = own.with_file_name("oci-native-worker");
    if beside.exists() {
        beside
    } else {
        env!("CARGO_BIN_EXE_oci-native-worker").into()
    }
}

/// A static busybox.
pub fn busybox() -> PathBuf {
    std::env::var_os("MAGIKRUN_TEST_BUSYBOX").map_or_else(|| "/bin/busybox".into(), PathBuf::from)
}

/// Where these tests' cgroups lie: one per test, so that each can be removed.
pub fn cgroup_root(root: &Path) -> String {
    let unique = root
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .trim_start_matches('.');
    format!("/magikrun-test-oci-native-{unique}")
}

/// Whether the test can run; says why not.
pub fn can_run(test: &str) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root"
    } else if !busybox().exists() {
        "needs /bin/busybox (Debian: busybox-static)"
    } else {
        return true;
    };
    skip(test, reason);
    false
}

pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
}

/// A bundle and a runtime in a temporary directory.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub runtime: NativeRuntime,
    pub id: ContainerId,
}

impl Fixture {
    /// A bundle whose container runs `sh -c script`.
    pub fn new(script: &str) -> Self {
        Self::with(script, |_| {})
    }

    /// The same, with `config.json` changed by `edit`.
    pub fn with(script: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_rootfs(&dir.path().join("bundle/rootfs"));
        let mut config = config(script);
        edit(&mut config);
        fs::write(dir.path().join("bundle/config.json"), config.to_string()).unwrap();
        let unique = dir
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.')
            .to_owned();
        let id = ContainerId::new(format!("t-{}-{unique}", std::process::id())).unwrap();
        Self {
            runtime: runtime(&dir.path().join("root")),
            dir,
            id,
        }
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The container's directory.
    pub fn container_dir(&self) -> PathBuf {
        self.root().join(&self.id)
    }

    pub async fn create(&self, stdio: Stdio) -> magik_oci::Result<magik_oci::ContainerState> {
        self.runtime
            .create(&self.id, &self.bundle(), stdio, CreateOptions::default())
            .await
    }

    /// Creates, starts, waits and returns how it ended and what it printed; then deletes.
    pub async fn run(&self) -> (Exit, String) {
        let (stdio, output) = output();
        self.create(stdio).await.unwrap();
        self.runtime.start(&self.id).await.unwrap();
        let exit = self.runtime.wait(&self.id).await.unwrap();
        let text = read_all(output);
        self.runtime.delete(&self.id, false).await.unwrap();
        (exit, text)
    }

    /// Creates and starts a container that goes on running.
    pub async fn start(&self) {
        self.create(Stdio::default()).await.unwrap();
        self.runtime.start(&self.id).await.unwrap();
    }

    /// Executes `sh -c script` with a process changed by `edit`; how it ended and what it printed.
    pub async fn exec_with(&self, script: &str, edit: impl FnOnce(&mut Value)) -> (Exit, String) {
        let mut process = json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        edit(&mut process);
        let process = serde_json::from_value(process).unwrap();
        let (stdio, output) = output();
        let pid = self
            .runtime
            .exec(&self.id, &process, ExecIo::Pipes(stdio), ExecOptions::default())
            .await
            .unwrap();
        let exit = self.runtime.wait_exec(&self.id, pid).await.unwrap();
        (exit, read_all(output))
    }

    pub async fn exec(&self, script: &str) -> (Exit, String) {
        self.exec_with(script, |_| {}).await
    }

    /// Fails unless neither directory nor cgroup is left of the container.
    pub fn assert_nothing_left(&self) {
        assert!(
            !self.container_dir().exists(),
            "{} is left",
            self.container_dir().display()
        );
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
    }

    /// The container's cgroup directories, in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroup_dirs(&cgroup_root(&self.root()))
            .into_iter()
            .map(|d| d.join(&self.id))
            .filter(|d| d.exists())
            .collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // What a failed test leaves.
        for dir in self.cgroups() {
            for pid in fs::read_to_string(dir.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
            {
                let _ = std::process::Command::new("kill").args(["-9", pid]).status();
            }
            // Only v1's freezer keeps a killed process from dying.
            if dir.join("freezer.state").exists() {
                let _ = fs::write(dir.join("freezer.state"), "THAWED");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            let _ = fs::remove_dir(&dir);
        }
        for dir in cgroup_dirs(&cgroup_root(&self.root())) {
            let _ = fs::remove_dir(&dir);
        }
    }
}

pub fn runtime(root: &Path) -> NativeRuntime {
    NativeRuntime::builder(root.to_owned())
        .helper(helper())
        .cgroup_root(cgroup_root(root))
        .build()
}

/// The directories of a cgroup, in every hierarchy that has it.
pub fn cgroup_dirs(path: &str) -> Vec<PathBuf> {
    let mounts = fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path());
    let below = |mount: PathBuf| mount.join(path.trim_start_matches('/'));
    mounts
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(below)
        .filter(|d| d.is_dir())
        .collect()
}

/// busybox and links to it.
pub fn make_rootfs(rootfs: &Path) {
    for dir in ["bin", "dev", "proc", "sys", "tmp", "etc", "root", "work"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    fs::copy(busybox(), rootfs.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "pwd", "true", "false", "kill", "grep", "ls", "env", "yes",
        "head", "dd", "stat", "tty", "stty", "readlink", "mkdir", "touch", "printf", "chmod", "umask",
    ] {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
}

/// A runtime spec: own pid, mount, ipc, uts and network namespaces, few capabilities.
pub fn config(script: &str) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_BIND_SERVICE"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/usr/bin:/bin", "GREETING=hello"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "resources": {},
        },
    })
}

/// Standard output and error into one pipe.
pub fn output() -> (Stdio, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stderr = writer.try_clone().unwrap();
    (
        Stdio {
            stdin: None,
            stdout: Some(writer),
            stderr: Some(stderr),
        },
        reader,
    )
}

/// Everything up to the end, which comes when nobody holds the other end any more.
pub fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

/// The descriptor that comes over a console socket.
pub fn receive_fd(socket: &std::os::unix::net::UnixStream) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut name = [0_u8; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut messages = control.drain();
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = messages.next() else {
        panic!("no descriptor came")
    };
    fds.next().unwrap()
}

/// What a terminal shows until its other side is closed, which is EIO.
pub fn read_terminal(master: &OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0_u8; 1024];
    while let Ok(n @ 1..) = rustix::io::read(master, &mut buffer) {
        text.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs a step in a fork of this process, which must have one thread, and returns its exit code; a panic is 101.
#[allow(unsafe_code, reason = "there is no safe fork")]
pub fn fork_and_wait(step: impl FnOnce()) -> i32 {
    // SAFETY: one thread, so no lock is held by another.
    match unsafe { libc::fork() } {
        0 => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
            // SAFETY: always sound.
            unsafe { libc::_exit(if outcome.is_ok() { 0 } else { 101 }) }
        }
        pid => {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                .unwrap()
                .unwrap();
            ended.1.exit_status().unwrap_or(-1)
        }
    }
}

/// Leaves namespaces of this process.
#[allow(unsafe_code, reason = "rustix calls it unsafe, for CLONE_FILES")]
pub fn unshare(flags: rustix::thread::UnshareFlags) {
    // SAFETY: no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
}

/// A procfs of this process's pid namespace, seen by nobody else.
pub fn mount_own_proc() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("proc", "/proc", "proc", MountFlags::empty(), c"").unwrap();
}

/// Makes a descriptor inheritable, under a number.
#[allow(unsafe_code, reason = "a descriptor is given a number of our choice")]
pub fn place(file: &fs::File, number: i32) {
    use std::os::fd::AsRawFd;
    // SAFETY: the number is not in use by anything of this test.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
}
