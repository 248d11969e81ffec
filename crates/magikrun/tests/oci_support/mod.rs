//! What the tests of the OCI commands share: a runtime root, a busybox bundle, and the binary.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::missing_panics_doc)]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_magikrun");

/// A program that ends at SIGTERM with 3; as PID 1 a plain one would ignore the signal.
pub const SLEEPER: &str = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";

/// A runtime root and cgroups of its own; what is left in them is deleted with it.
pub struct Host {
    dir: TempDir,
    cgroup: String,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn new(output: &std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output
            .status
            .code()
            .unwrap_or_else(|| 1000 + output.status.signal().unwrap_or(0));
        Self {
            code,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// The one line of a command that must have failed with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        let line = self.stderr.trim_end();
        assert!(line.starts_with("magikrun: ") && !line.contains('\n'), "{self:?}");
        line.to_owned()
    }
}

impl Host {
    /// A host for a test that starts containers, or `None`, said aloud, without root.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    pub fn root(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED {test}: needs root");
            return None;
        }
        Some(Self::any())
    }

    /// A host for a test that starts none.
    pub fn any() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            cgroup: format!("magikrun-test-oci-{}", std::process::id()),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A bundle whose container runs a script; `change` edits its configuration.
    pub fn bundle(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path(&format!("bundle-{name}"));
        let rootfs = bundle.join("rootfs");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::hard_link(self.busybox(), rootfs.join("bin/busybox")).unwrap();
        let applets = "sh echo cat ls id sleep env tty stty readlink stat grep touch head mkdir rm kill ps hostname pwd wc tail seq test \
                       chmod mount yes true false";
        for applet in applets.split_whitespace() {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        )
        .unwrap();
        fs::write(rootfs.join("etc/group"), "root:x:0:\nwww:x:34:\nextra:x:44:web\n").unwrap();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/",
                "capabilities": capabilities(&["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN"]),
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{name}", self.cgroup),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        });
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    /// One copy of busybox per host: bundles share it.
    fn busybox(&self) -> PathBuf {
        let copy = self.path("busybox");
        if !copy.exists() {
            fs::copy("/bin/busybox", &copy).expect("/bin/busybox (package busybox-static)");
        }
        copy
    }

    /// The command with this host's root; it is killed after a minute.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "-k", "1", "60", BINARY, "--root"])
            .arg(self.path("root"))
            .args(args);
        command
            .stdin(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::new(&self.command(args).output().unwrap())
    }

    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Ran::new(&child.wait_with_output().unwrap())
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Creates and starts a container that runs until SIGTERM.
    pub fn sleeper(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let bundle = self.bundle(name, SLEEPER, change);
        self.detached(name, &bundle);
        eventually("it handles SIGTERM", || self.log(name).contains("up"));
    }

    /// `create` and `start` with streams that nobody waits for.
    pub fn detached(&self, name: &str, bundle: &Path) {
        let create = ["create", "--bundle", bundle.to_str().unwrap(), name];
        let log = fs::File::create(self.path(&format!("log-{name}"))).unwrap();
        let mut command = self.command(&create);
        let status = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "create: {}",
            fs::read_to_string(self.path(&format!("log-{name}"))).unwrap()
        );
        self.run(&["start", name]).ok();
    }

    /// What a detached container has said.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("log-{name}"))).unwrap()
    }

    pub fn state(&self, name: &str) -> Value {
        serde_json::from_str(&self.run(&["state", name]).ok()).unwrap()
    }

    #[track_caller]
    pub fn until(&self, name: &str, status: &str) {
        eventually(&format!("{name} {status}"), || {
            self.state(name)["status"] == status
        });
    }

    /// A file of a container's cgroup, by its v1 and v2 name.
    pub fn cgroup_file(&self, name: &str, controller: &str, v1: &str, v2: &str) -> String {
        let v1 = format!("/sys/fs/cgroup/{controller}/{}/{name}/{v1}", self.cgroup);
        let v2 = format!("/sys/fs/cgroup/{}/{name}/{v2}", self.cgroup);
        fs::read_to_string(v1)
            .or_else(|_| fs::read_to_string(v2))
            .unwrap()
            .trim()
            .to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for id in self.run(&["list", "-q"]).stdout.lines() {
            self.run(&["delete", "--force", id]);
        }
        let root = Path::new("/sys/fs/cgroup");
        for hierarchy in fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .chain([root.to_owned()])
        {
            let _ = fs::remove_dir(hierarchy.join(&self.cgroup));
        }
    }
}

/// The same set in every place but the ambient one.
pub fn capabilities(names: &[&str]) -> Value {
    json!({"bounding": names, "effective": names, "permitted": names})
}

#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("waited in vain: {what}");
}

/// Runs a command on a terminal of 100 columns and 40 rows, types something, and returns what the terminal showed.
pub fn on_terminal(mut command: Command, typed: &str) -> Ran {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 40,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    let stream = || slave.try_clone().unwrap();
    let mut child = command
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    drop((command, slave));
    let mut master = fs::File::from(master);
    let mut reader = master.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        // EIO is the end: nobody has the terminal open any more.
        let _ = reader.read_to_end(&mut text);
        text
    });
    master.write_all(typed.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    let stdout = String::from_utf8_lossy(&reading.join().unwrap()).replace('\r', "");
    Ran {
        code: status.code().unwrap_or(-1),
        stdout,
        stderr: String::new(),
    }
}
