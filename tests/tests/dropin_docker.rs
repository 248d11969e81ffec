//! Debian's dockerd with magikrun as its runtime.
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context as _, Result, bail, ensure};
use magikrun_tests::dropin::{
    BOX, Check, Client, Stage, busybox_tar, docker_archive, documented, eventually, on_stage, run_checks,
    until_caught,
};
use rustix::process::Signal;

const PROGRAMS: [&str; 5] = ["dockerd", "containerd", "docker", "unshare", "busybox"];
/// Debian's own client: another one in PATH may be too new for its daemon.
const DOCKER: &str = "/usr/bin/docker";

#[test]
fn dockerd_runs_on_it() {
    on_stage("dockerd_runs_on_it", &PROGRAMS, all_checks);
}

fn all_checks(stage: &Stage) {
    let daemon = Dockerd::start(stage).expect("dockerd");
    let archive = busybox_tar(&stage.dir)
        .and_then(|tar| docker_archive(&stage.dir, &tar, &[BOX]))
        .expect("image");
    daemon
        .client
        .ok(&format!("load -i {}", archive.display()))
        .expect("load");
    daemon.client.ok("tag localhost/box:latest box").expect("tag");
    run_checks("docker", &daemon, 2, CHECKS);
    // Alone, because everybody else needs the daemon.
    run_checks("docker", &daemon, 1, RESTART_CHECKS);
}

/// The daemon and its client, ended with its test.
struct Dockerd {
    client: Client,
    dir: PathBuf,
    child: Mutex<Child>,
}

impl Dockerd {
    fn start(stage: &Stage) -> Result<Self> {
        let dir = stage.dir.clone();
        let path = |name: &str| dir.join(name).display().to_string();
        let mut config = serde_json::json!({
            "data-root": path("docker"), "exec-root": path("docker-exec"), "pidfile": path("docker.pid"),
            "hosts": [format!("unix://{}", path("docker.sock"))], "storage-driver": "overlay2", "live-restore": true,
            "iptables": false, "ip-masq": false, "userland-proxy": false,
            // More open files than the machines here allow make Docker's own default fail.
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 20000, "Hard": 20000}},
        });
        let documented: serde_json::Map<_, _> =
            serde_json::from_str(&documented("default-runtime", &stage.runtime))?;
        config.as_object_mut().context("an object")?.extend(documented);
        fs::write(path("daemon.json"), config.to_string())?;
        let globals = ["-H".to_owned(), format!("unix://{}", path("docker.sock"))];
        let client = Client::new(
            DOCKER,
            &globals,
            &[("DOCKER_CONFIG", path("client"))],
            dir.clone(),
        );
        let child = Mutex::new(Self::spawn(&dir)?);
        let daemon = Self { client, dir, child };
        daemon.wait_until_up()?;
        Ok(daemon)
    }

    fn spawn(dir: &Path) -> Result<Child> {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join("dockerd.log"))?;
        let mut command = Command::new("dockerd");
        command
            .arg("--config-file")
            .arg(dir.join("daemon.json"))
            .args(["--log-level", "warn"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("dockerd")
    }

    fn wait_until_up(&self) -> Result<()> {
        eventually("dockerd answers", || {
            self.client.run("version").is_ok_and(|o| o.exit == 0)
        })
        .with_context(|| fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default())
    }

    /// Ends the daemon without ceremony and starts it again.
    fn restart(&self) -> Result<()> {
        let mut child = self.child.lock().expect("no check panics");
        child.kill()?;
        child.wait()?;
        *child = Self::spawn(&self.dir)?;
        self.wait_until_up()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl std::ops::Deref for Dockerd {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A detached container that sleeps, removed at the end of its check.
struct Sleeper<'a> {
    docker: &'a Client,
    name: String,
}

impl<'a> Sleeper<'a> {
    fn new(docker: &'a Client, options: &str) -> Result<Self> {
        Self::running(
            docker,
            options,
            "sh -c \"trap 'exit 3' TERM; while :; do sleep 0.1; done\"",
        )
    }

    fn running(docker: &'a Client, options: &str, command: &str) -> Result<Self> {
        let sleeper = Self {
            docker,
            name: docker.name(),
        };
        docker.ok(&format!(
            "run -d --net none --name {} {options} box {command}",
            sleeper.name
        ))?;
        Ok(sleeper)
    }

    fn ok(&self, command: &str, arguments: &str) -> Result<String> {
        self.docker.ok(&format!("{command} {arguments} {}", self.name))
    }

    fn exec(&self, options: &str, command: &str) -> Result<String> {
        self.docker.ok(&format!("exec {options} {} {command}", self.name))
    }

    fn inspect(&self, field: &str) -> Result<String> {
        self.docker
            .ok(&format!("inspect --format '{{{{.{field}}}}}' {}", self.name))
    }

    /// Waits until its program handles SIGTERM.
    fn listens(self) -> Result<Self> {
        until_caught(self.inspect("State.Pid")?.parse()?, Signal::TERM)?;
        Ok(self)
    }

    fn is(&self, field: &str, value: &str) -> Result<()> {
        let found = self.inspect(field)?;
        ensure!(found == value, "{field} is {found}, not {value}");
        Ok(())
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let _ = self.docker.run(&format!("rm -f {}", self.name));
    }
}

fn contains(found: &str, part: &str) -> Result<()> {
    ensure!(found.contains(part), "{found:?} has no {part:?}");
    Ok(())
}

/// A file of the container's own cgroup, on v1 or v2.
fn cgroup_file(c: &Sleeper<'_>, controller: &str, v1: &str, v2: &str) -> Result<String> {
    c.exec(
        "",
        &format!("sh -c 'cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}'"),
    )
}

const CHECKS: &[Check<Dockerd>] = &[
    ("run passes stdout on", |d| {
        d.says("run --rm --net none box echo hello", "hello")
    }),
    ("run passes the exit code on", |d| {
        d.exits("run --rm --net none box sh -c 'exit 7'", 7).map(drop)
    }),
    ("a missing program is 127", |d| {
        d.exits("run --rm --net none box nosuch", 127).map(drop)
    }),
    ("what is no program is 126", |d| {
        d.exits("run --rm --net none box /etc/plain", 126).map(drop)
    }),
    ("run passes stdin on", |d| {
        d.input("run --rm -i --net none box cat", b"typed")?
            .code(0)?
            .is("typed")
            .map(drop)
    }),
    ("a terminal", |d| {
        d.terminal(
            "run --rm -it --net none box sh",
            "tty; sleep 0.3; stty size; echo $((6*7)); exit 5\n",
        )?
        .code(5)?
        .has("/dev/pts/0")?
        .has("40 100")?
        .has("42")
        .map(drop)
    }),
    ("environment, directory, user and hostname", |d| {
        let line = "run --rm --net none -e A=b -w /srv -u web --hostname box.test box sh -c 'echo $A; pwd; id -un; hostname; echo $HOME'";
        d.says(line, "b\n/srv\nweb\nbox.test\n/srv")
    }),
    ("the bridge network", |d| {
        d.ok("run --rm box ls /sys/class/net")
            .and_then(|o| contains(&o, "eth0"))
    }),
    ("a network shared with another container", |d| {
        let c = Sleeper::new(d, "")?;
        let theirs = c.exec("", "readlink /proc/self/ns/net")?;
        d.says(
            &format!(
                "run --rm --net container:{} box readlink /proc/self/ns/net",
                c.name
            ),
            &theirs,
        )
    }),
    ("pids shared with another container", |d| {
        let c = Sleeper::running(d, "", "sleep 777")?;
        d.ok(&format!("run --rm --net none --pid container:{} box ps", c.name))
            .and_then(|o| contains(&o, "sleep 777"))
    }),
    ("a bind mount and a volume", |d| {
        let dir = d.directory()?;
        let volume = d.name();
        d.ok(&format!(
            "run --rm --net none -v {dir}:/v -v {volume}:/w box sh -c 'echo a >/v/f; echo b >/w/f'"
        ))?;
        d.says(
            &format!("run --rm --net none -v {dir}:/v:ro -v {volume}:/w box cat /v/f /w/f"),
            "a\nb",
        )?;
        d.run(&format!("run --rm --net none -v {dir}:/v:ro box touch /v/x"))?
            .failed()?;
        d.ok(&format!("volume rm {volume}")).map(drop)
    }),
    ("mount propagation", |d| {
        let dir = d.directory()?;
        let mounted = Command::new("sh")
            .args([
                "-c",
                &format!("mount -t tmpfs t {dir} && mount --make-shared {dir}"),
            ])
            .status()?;
        ensure!(mounted.success(), "mount");
        for (option, word) in [("rslave", "master:"), ("rshared", "shared:")] {
            let line = format!(
                "run --rm --net none -v {dir}:/v:{option} box sh -c 'grep \" /v \" /proc/self/mountinfo'"
            );
            d.ok(&line).and_then(|o| contains(&o, word)).context(option)?;
        }
        Ok(())
    }),
    ("a tmpfs and a read-only root", |d| {
        d.ok("run --rm --net none --read-only --tmpfs /t:size=1m box sh -c 'touch /t/x'")?;
        d.run("run --rm --net none --read-only box touch /x")?
            .failed()?
            .complains("read-only")
            .map(drop)
    }),
    ("capabilities", |d| {
        d.says(
            "run --rm --net none box grep CapBnd /proc/self/status",
            "CapBnd:\t00000000a80425fb",
        )?;
        d.says(
            "run --rm --net none --cap-drop ALL box grep CapEff /proc/self/status",
            "CapEff:\t0000000000000000",
        )?;
        d.ok("run --rm --net none --cap-add NET_ADMIN box ip link set lo down")
            .map(drop)
    }),
    ("no new privileges", |d| {
        d.says(
            "run --rm --net none --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1",
        )
    }),
    ("seccomp", |d| {
        d.says(
            "run --rm --net none box grep Seccomp: /proc/self/status",
            "Seccomp:\t2",
        )?;
        d.says(
            "run --rm --net none --security-opt seccomp=unconfined box grep Seccomp: /proc/self/status",
            "Seccomp:\t0",
        )
    }),
    ("resource limits of the process", |d| {
        d.says(
            "run --rm --net none --ulimit nofile=512:1024 box sh -c 'ulimit -n; ulimit -Hn'",
            "512\n1024",
        )
    }),
    ("a sysctl", |d| {
        d.says("run --rm --net none --sysctl net.ipv4.ip_unprivileged_port_start=81 box cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81")
    }),
    ("devices", |d| {
        d.says(
            "run --rm --net none --device /dev/zero:/dev/nought box sh -c 'head -c 3 /dev/nought | wc -c'",
            "3",
        )?;
        d.run("run --rm --net none box sh -c 'mknod /x c 10 229 && : </x'")?
            .failed()?
            .complains("not permitted")
            .map(drop)
    }),
    ("masked and read-only paths", |d| {
        d.run("run --rm --net none box sh -c 'echo 1 >/proc/sys/kernel/panic'")?
            .failed()?
            .complains("read-only")?;
        d.ok("run --rm --net none box sh -c 'test -z \"$(cat /proc/keys /proc/timer_list 2>/dev/null)\"'")
            .map(drop)
    }),
    ("the size of /dev/shm and the oom score", |d| {
        let line = "run --rm --net none --shm-size 2m --oom-score-adj 500 box sh -c 'grep -o size=2048k /proc/mounts; cat /proc/self/oom_score_adj'";
        d.says(line, "size=2048k\n500")
    }),
    ("limits of memory, processors and processes", |d| {
        let c = Sleeper::new(d, "--memory 64m --cpus 0.5 --pids-limit 30 --cpuset-cpus 0")?;
        ensure!(
            cgroup_file(&c, "memory", "memory.limit_in_bytes", "memory.max")? == "67108864",
            "memory"
        );
        ensure!(
            cgroup_file(&c, "cpu", "cpu.cfs_quota_us", "cpu.max")?.starts_with("50000"),
            "cpu"
        );
        ensure!(cgroup_file(&c, "pids", "pids.max", "pids.max")? == "30", "pids");
        contains(&c.exec("", "grep Cpus_allowed_list /proc/self/status")?, "\t0")
    }),
    ("update changes a live container", |d| {
        let c = Sleeper::new(d, "--memory 64m --memory-swap 128m")?;
        c.ok(
            "update",
            "--memory 48m --memory-swap 128m --cpu-shares 300 --pids-limit 40",
        )?;
        ensure!(
            cgroup_file(&c, "memory", "memory.limit_in_bytes", "memory.max")? == "50331648",
            "memory"
        );
        ensure!(cgroup_file(&c, "pids", "pids.max", "pids.max")? == "40", "pids");
        Ok(())
    }),
    ("out of memory", |d| {
        // Whether containerd's shim notices before the container has ended is a matter of luck, with every runtime.
        for _ in 0..5 {
            let c = Sleeper::running(d, "--memory 24m --memory-swap 24m", "tail /dev/zero")?;
            ensure!(c.ok("wait", "")? == "137", "exit code");
            if c.inspect("State.OOMKilled")? == "true" {
                return Ok(());
            }
        }
        bail!("it never says so")
    }),
    ("stats and top", |d| {
        let c = Sleeper::new(d, "--memory 64m")?;
        contains(
            &c.ok("stats", "--no-stream --format '{{.MemUsage}} {{.PIDs}}'")?,
            "64MiB",
        )?;
        contains(&c.ok("top", "")?, "sleep")
    }),
    ("exec", |d| {
        let c = Sleeper::new(d, "-e A=from-run")?;
        let out = c.exec("-u web -w /tmp -e B=c", "sh -c 'id -un; pwd; echo $A $B'")?;
        ensure!(out == "web\n/tmp\nfrom-run c", "{out}");
        d.exits(&format!("exec {} sh -c 'exit 9'", c.name), 9)?;
        // dockerd 20.10 says 126 with every runtime.
        d.run(&format!("exec {} nosuch", c.name))?.failed()?;
        d.input(&format!("exec -i {} cat", c.name), b"typed")?
            .is("typed")
            .map(drop)
    }),
    ("exec with a terminal", |d| {
        let c = Sleeper::new(d, "")?;
        d.terminal(&format!("exec -it {} sh", c.name), "tty; echo $((6*7)); exit 5\n")?
            .code(5)?
            .has("/dev/pts/")?
            .has("42")
            .map(drop)
    }),
    ("exec keeps the sandbox", |d| {
        let c = Sleeper::new(
            d,
            "--cap-drop CHOWN --security-opt no-new-privileges --ulimit nofile=300:300 -u web",
        )?;
        let grep = |pid| {
            format!(
                "sh -c 'grep -E \"^(Cap|NoNewPrivs|Seccomp:|Uid|Gid)\" /proc/{pid}/status; ulimit -n; cat /proc/{pid}/cgroup'"
            )
        };
        let (first, ours) = (c.exec("", &grep("1"))?, c.exec("", &grep("self"))?);
        ensure!(first == ours, "{ours} is not {first}");
        contains(&ours, "Seccomp:\t2")
    }),
    ("exec in the background", |d| {
        let c = Sleeper::new(d, "")?;
        c.exec("-d", "sh -c 'echo done >/tmp/flag'")?;
        eventually("the file", || {
            c.exec("", "cat /tmp/flag").is_ok_and(|o| o == "done")
        })
    }),
    ("logs", |d| {
        let c = Sleeper::running(d, "", "sh -c 'echo one; echo two >&2'")?;
        c.ok("wait", "")?;
        d.exits(&format!("logs {}", c.name), 0)?
            .is("one")?
            .complains("two")
            .map(drop)
    }),
    ("stop, start, restart and kill", |d| {
        let c = Sleeper::new(d, "")?.listens()?;
        c.ok("stop", "-t 10")?;
        c.is("State.ExitCode", "3")?;
        c.ok("start", "")?;
        c.is("State.Status", "running")?;
        let before = c.inspect("State.Pid")?;
        c.ok("restart", "-t 5")?;
        ensure!(c.inspect("State.Pid")? != before, "the same process");
        c.ok("kill", "")?;
        ensure!(c.ok("wait", "")? == "137", "exit code");
        Ok(())
    }),
    ("stop kills what does not end", |d| {
        let c = Sleeper::running(d, "", "sleep 100")?;
        c.ok("stop", "-t 1")?;
        c.is("State.ExitCode", "137")
    }),
    ("pause and unpause", |d| {
        let c = Sleeper::new(d, "")?;
        c.ok("pause", "")?;
        c.is("State.Status", "paused")?;
        c.ok("unpause", "")?;
        c.is("State.Status", "running")?;
        c.exec("", "true").map(drop)
    }),
    ("init as pid 1", |d| {
        d.ok("run --rm --net none --init box cat /proc/1/cmdline")
            .and_then(|o| contains(&o, "docker-init"))
    }),
    ("a restart policy", |d| {
        let c = Sleeper::running(d, "--restart on-failure:2", "sh -c 'exit 3'")?;
        eventually("two restarts", || {
            c.is("RestartCount", "2").is_ok() && c.is("State.Status", "exited").is_ok()
        })
    }),
    ("a health check", |d| {
        let c = Sleeper::new(
            d,
            "--health-cmd 'test -e /healthy' --health-interval 0.2s --health-retries 1",
        )?;
        c.exec("", "touch /healthy")?;
        eventually("healthy", || c.is("State.Health.Status", "healthy").is_ok())
    }),
    ("cp and commit", |d| {
        let c = Sleeper::new(d, "")?;
        let dir = d.directory()?;
        fs::write(format!("{dir}/in"), "copied\n")?;
        d.ok(&format!("cp {dir}/in {}:/srv/in", c.name))?;
        ensure!(c.exec("", "cat /srv/in")? == "copied", "cp into it");
        let image = format!("image-{}", c.name);
        d.ok(&format!("commit {} {image}", c.name))?;
        d.says(&format!("run --rm --net none {image} cat /srv/in"), "copied")
    }),
    ("events", |d| {
        let name = d.name();
        d.ok(&format!("run --rm --net none --name {name} box true"))?;
        let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
        let range = format!("--since {} --until {now}.999999999", now - 60);
        let out = d.ok(&format!(
            "events {range} --filter container={name} --format '{{{{.Action}}}}'"
        ))?;
        ["create", "start", "die", "destroy"]
            .iter()
            .try_for_each(|action| contains(&out, action))
    }),
    ("a cgroup parent", |d| {
        let c = Sleeper::new(d, "--cgroup-parent /parent-of-box --cgroupns host")?;
        contains(&c.exec("", "cat /proc/self/cgroup")?, "/parent-of-box/")
    }),
    ("ten at once", |d| {
        let mut children = Vec::new();
        for i in 0..10 {
            let mut command = d.command(&format!("run --rm --net none box sh -c 'echo {i}; exit {i}'"));
            children.push(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        }
        for (i, child) in children.into_iter().enumerate() {
            let out = child.wait_with_output()?;
            ensure!(out.status.code() == i32::try_from(i).ok(), "{i}: {out:?}");
            ensure!(
                String::from_utf8_lossy(&out.stdout).trim() == i.to_string(),
                "{i}: {out:?}"
            );
        }
        Ok(())
    }),
];

const RESTART_CHECKS: &[Check<Dockerd>] = &[("containers live on when the daemon is killed", |d| {
    let c = Sleeper::new(d, "")?.listens()?;
    let paused = Sleeper::new(d, "")?;
    paused.ok("pause", "")?;
    let pid = c.inspect("State.Pid")?;
    d.restart()?;
    c.is("State.Pid", &pid)?;
    c.is("State.Status", "running")?;
    c.exec("", "true")?;
    paused.is("State.Status", "paused")?;
    paused.ok("unpause", "")?;
    c.ok("stop", "-t 10")?;
    c.is("State.ExitCode", "3")
})];
