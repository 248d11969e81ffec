//! A runtime under test, and bundles made for one check each.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One behaviour and how to see it.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Runtime) -> Result<()>,
}

/// A runtime binary with a state root of its own.
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    path: PathBuf,
    root: TempDir,
}

impl Runtime {
    pub(crate) fn new(name: &'static str, path: PathBuf) -> Self {
        Self {
            name,
            path,
            root: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// `runtime --root ROOT ARGS…`; crun 1.8 refuses hybrid cgroups unless `unified` is out of sight.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = if self.name == "crun" {
            let mut c = Command::new("unshare");
            c.args(["-m", "--propagation", "slave", "sh", "-c"]);
            c.arg("umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"")
                .arg("sh")
                .arg(&self.path);
            c
        } else {
            Command::new(&self.path)
        };
        command
            .arg("--root")
            .arg(self.root.path())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end; its streams go to files, so that a container that keeps them open does not hold us.
    pub(crate) fn output(&self, args: &[&str], directory: &Path) -> Result<Output> {
        let (out, err) = (directory.join(".out"), directory.join(".err"));
        let mut child = self
            .command(args)
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&err)?)
            .spawn()
            .with_context(|| format!("{}", self.path.display()))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("{args:?} did not end in 20 s");
            }
            thread::sleep(Duration::from_millis(3));
        };
        Ok(Output {
            status,
            stdout: fs::read(out)?,
            stderr: fs::read(err)?,
        })
    }

    /// A bundle whose program is `sh -c script`.
    pub(crate) fn bundle(&self, script: &str) -> Result<Bundle<'_>> {
        Bundle::new(self, script)
    }

    /// Runs `script` in a container whose configuration `change` has changed; what it printed.
    pub(crate) fn run(&self, script: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        let mut bundle = self.bundle(script)?;
        change(&mut bundle.config);
        bundle.run()
    }

    /// Asserts that no container comes to run with the configuration as `change` made it.
    pub(crate) fn refuses(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut bundle = self.bundle("echo started")?;
        change(&mut bundle.config);
        let output = bundle.try_run()?;
        ensure!(
            !output.status.success() && output.stdout.is_empty(),
            "it was accepted"
        );
        Ok(())
    }
}

/// A bundle, and the container made from it; both are gone when it is dropped.
pub(crate) struct Bundle<'r> {
    runtime: &'r Runtime,
    dir: TempDir,
    pub(crate) id: String,
    pub(crate) config: Value,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl<'r> Bundle<'r> {
    fn new(runtime: &'r Runtime, script: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        make_rootfs(&dir.path().join("rootfs"))?;
        let id = format!(
            "conf-{}-{}-{}",
            runtime.name,
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let config = base_config(script, &id);
        Ok(Self {
            runtime,
            dir,
            id,
            config,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub(crate) fn save(&self) -> Result<()> {
        Ok(fs::write(
            self.dir().join("config.json"),
            serde_json::to_vec_pretty(&self.config)?,
        )?)
    }

    /// `run`: what it printed; an error unless it ended with 0.
    pub(crate) fn run(&self) -> Result<String> {
        let output = self.try_run()?;
        ensure!(
            output.status.success(),
            "run: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    pub(crate) fn try_run(&self) -> Result<Output> {
        self.save()?;
        self.runtime.output(
            &["run", "--bundle", self.dir().to_str().unwrap(), &self.id],
            self.dir(),
        )
    }

    pub(crate) fn create_with(&self, options: &[&str]) -> Result<Output> {
        self.save()?;
        let mut args = vec!["create", "--bundle", self.dir().to_str().unwrap()];
        args.extend(options);
        args.push(&self.id);
        self.runtime.output(&args, self.dir())
    }

    pub(crate) fn create(&self) -> Result<()> {
        let output = self.create_with(&[])?;
        ensure!(
            output.status.success(),
            "create: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// `OPERATION ID ARGS…`
    pub(crate) fn op(&self, operation: &str, args: &[&str]) -> Result<Output> {
        let mut all = vec![operation, &self.id];
        all.extend(args);
        self.runtime.output(&all, self.dir())
    }

    pub(crate) fn ok(&self, operation: &str, args: &[&str]) -> Result<()> {
        let output = self.op(operation, args)?;
        ensure!(
            output.status.success(),
            "{operation}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    pub(crate) fn fails(&self, operation: &str, args: &[&str]) -> Result<()> {
        ensure!(
            !self.op(operation, args)?.status.success(),
            "{operation} succeeded"
        );
        Ok(())
    }

    pub(crate) fn state(&self) -> Result<Value> {
        let output = self.op("state", &[])?;
        ensure!(
            output.status.success(),
            "state: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    pub(crate) fn pid(&self) -> Result<i64> {
        self.state()?["pid"].as_i64().context("state has no pid")
    }

    /// Waits until `state` says `status`.
    pub(crate) fn until(&self, status: &str) -> Result<()> {
        eventually(&format!("status {status}"), || {
            Ok(self.state()?["status"] == status)
        })
    }

    /// Starts it and waits for its end.
    pub(crate) fn start_to_end(&self) -> Result<()> {
        self.ok("start", &[])?;
        self.until("stopped")
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        let _ = self.runtime.command(&["delete", "--force", &self.id]).output();
    }
}

/// Asks until `holds` or 10 seconds have gone.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not within 10 s");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// busybox with all its applets, and the directories that mounts need.
fn make_rootfs(rootfs: &Path) -> Result<()> {
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "mnt"] {
        fs::create_dir_all(rootfs.join(dir))?;
    }
    // By another process: while this one has the file open for writing, another thread may fork, and
    // until its child executes something nobody can execute the file (ETXTBSY).
    let copied = Command::new("cp")
        .arg("/bin/busybox")
        .arg(rootfs.join("bin/busybox"))
        .status();
    ensure!(
        copied.is_ok_and(|copied| copied.success()),
        "busybox-static is needed"
    );
    for applet in [
        "sh",
        "cat",
        "cut",
        "dd",
        "echo",
        "env",
        "false",
        "grep",
        "head",
        "hostname",
        "id",
        "kill",
        "ln",
        "ls",
        "mkdir",
        "mknod",
        "mount",
        "pwd",
        "readlink",
        "rm",
        "sed",
        "sleep",
        "sort",
        "stat",
        "sync",
        "test",
        "touch",
        "tr",
        "true",
        "tty",
        "umask",
        "uname",
        "wc",
        "dnsdomainname",
        "date",
    ] {
        symlink("busybox", rootfs.join("bin").join(applet))?;
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    Ok(())
}

fn base_config(script: &str, id: &str) -> Value {
    let caps = json!([
        "CAP_AUDIT_WRITE",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_CHOWN",
        "CAP_SETUID",
        "CAP_SETGID"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "hostname": "conformance",
        "root": {"path": "rootfs"},
        "process": {
            "args": ["/bin/sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/bin", "TERM=xterm"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/magikrun-conformance/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]
        }
    })
}

/// Asserts that `output` has `line` as one of its lines.
pub(crate) fn has_line(output: &str, line: &str) -> Result<()> {
    ensure!(
        output.lines().any(|l| l.trim() == line),
        "no line {line:?} in {output:?}"
    );
    Ok(())
}

impl Bundle<'_> {
    /// Starts it, kills it, and waits for its end.
    pub(crate) fn start_to_end_by_kill(&self) -> Result<()> {
        self.ok("start", &[])?;
        self.ok("kill", &["KILL"])?;
        self.until("stopped")
    }
}
