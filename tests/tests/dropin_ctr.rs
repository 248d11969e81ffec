//! Debian's containerd with magikrun as the runtime of its runc shim, driven by `ctr`.
#![cfg(target_os = "linux")]

use std::{fs, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use magikrun_test_world::cgroup_file;
use magikrun_tests::dropin::{
    BOX, Check, Client, Containerd, Stage, busybox_tar, docker_archive, eventually, on_stage, run_checks,
    until_caught,
};
use rustix::process::Signal;

const PROGRAMS: [&str; 4] = ["containerd", "ctr", "unshare", "busybox"];

#[test]
fn containerd_runs_on_it() {
    on_stage("containerd_runs_on_it", &PROGRAMS, all_checks);
}

fn all_checks(stage: &Stage) {
    let disabled = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]";
    let daemon = Containerd::start(&stage.dir, disabled).expect("containerd");
    let ctr = daemon.ctr(&[]);
    let archive = busybox_tar(&stage.dir)
        .and_then(|tar| docker_archive(&stage.dir, &tar, &[BOX]))
        .expect("image");
    ctr.ok(&format!("images import {}", archive.display()))
        .expect("import");
    run_checks(
        "ctr",
        &Ctr {
            client: ctr,
            runtime: stage.runtime.display().to_string(),
        },
        2,
        CHECKS,
    );
}

/// ctr with the runtime under test.
struct Ctr {
    client: Client,
    runtime: String,
}

impl Ctr {
    /// `ctr run` of the image with options and a command.
    fn line(&self, options: &str, name: &str, command: &str) -> String {
        format!(
            "run --runc-binary {} {options} localhost/box:latest {name} {command}",
            self.runtime
        )
    }

    fn run(&self, options: &str, command: &str) -> Result<magikrun_tests::dropin::Outcome> {
        self.client
            .run(&self.line(&format!("--rm {options}"), &self.client.name(), command))
    }

    fn says(&self, options: &str, command: &str, expected: &str) -> Result<()> {
        self.run(options, command)?.code(0)?.is(expected).map(drop)
    }
}

/// A detached container, removed at the end of its check.
struct Task<'a> {
    ctr: &'a Ctr,
    name: String,
}

impl<'a> Task<'a> {
    fn new(ctr: &'a Ctr, options: &str) -> Result<Self> {
        Self::running(
            ctr,
            options,
            "sh -c \"trap 'exit 3' TERM; while :; do sleep 0.1; done\"",
        )
    }

    fn running(ctr: &'a Ctr, options: &str, command: &str) -> Result<Self> {
        let task = Self {
            ctr,
            name: ctr.client.name(),
        };
        ctr.client
            .ok(&ctr.line(&format!("-d {options}"), &task.name, command))?;
        Ok(task)
    }

    fn exec(&self, options: &str, command: &str) -> Result<magikrun_tests::dropin::Outcome> {
        let id = self.ctr.client.name();
        self.ctr.client.run(&format!(
            "task exec --exec-id {id} {options} {} {command}",
            self.name
        ))
    }

    fn ok(&self, command: &str, arguments: &str) -> Result<String> {
        self.ctr
            .client
            .ok(&format!("task {command} {arguments} {}", self.name))
    }

    /// A column of the list of tasks.
    fn listed(&self, column: usize) -> String {
        let list = self.ctr.client.ok("task ls").unwrap_or_default();
        let line = list
            .lines()
            .find(|l| l.split_whitespace().next() == Some(&self.name))
            .unwrap_or_default();
        line.split_whitespace().nth(column).unwrap_or_default().to_owned()
    }

    fn pid(&self) -> Result<u64> {
        self.listed(1).parse().context("its pid")
    }

    fn status(&self) -> String {
        self.listed(2)
    }

    fn until(&self, status: &str) -> Result<()> {
        eventually(&format!("{} {status}", self.name), || self.status() == status)
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        let _ = self.ctr.client.run(&format!("task rm -f {}", self.name));
        let _ = self.ctr.client.run(&format!("container rm {}", self.name));
    }
}

const CHECKS: &[Check<Ctr>] = &[
    ("run passes stdout on", |c| c.says("", "echo hello", "hello")),
    ("run passes the exit code on", |c| {
        c.run("", "sh -c 'exit 7'")?.code(7).map(drop)
    }),
    ("a missing program is an error that names it", |c| {
        c.run("", "/nosuch")?.failed()?.complains("nosuch").map(drop)
    }),
    ("run passes stdin on", |c| {
        // ctr does not pass the end of its input on.
        let line = c.line("--rm", &c.client.name(), "head -c 5");
        c.client.input(&line, b"typed")?.code(0)?.is("typed").map(drop)
    }),
    ("a terminal", |c| {
        let line = c.line("--rm -t", &c.client.name(), "sh -c 'tty; sleep 0.5; stty size'");
        // ctr tells the size when the program already runs.
        c.client
            .terminal(&line, "")?
            .code(0)?
            .has("/dev/pts/0")?
            .has("40 100")
            .map(drop)
    }),
    ("environment and directory", |c| {
        c.says("--env A=b --cwd /srv", "sh -c 'echo $A; pwd'", "b\n/srv")
    }),
    ("a read-only root", |c| {
        c.run("--read-only", "touch /x")?
            .failed()?
            .complains("read-only")
            .map(drop)
    }),
    ("a bind mount", |c| {
        let dir = c.client.directory()?;
        fs::write(format!("{dir}/f"), "mounted\n")?;
        c.says(
            &format!("--mount type=bind,src={dir},dst=/v,options=rbind:ro"),
            "cat /v/f",
            "mounted",
        )
    }),
    ("the host's network", |c| {
        let host = fs::read_link("/proc/thread-self/ns/net")?;
        c.says(
            "--net-host",
            "readlink /proc/self/ns/net",
            &host.to_string_lossy(),
        )
    }),
    ("a memory limit", |c| {
        let task = Task::new(c, "--memory-limit 67108864")?;
        let limit = cgroup_file(task.pid()?, "memory", "memory.limit_in_bytes", "memory.max")?;
        ensure!(limit == "67108864", "{limit}");
        Ok(())
    }),
    ("seccomp filters", |c| {
        c.says("--seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t2")
    }),
    ("capabilities added and dropped", |c| {
        c.run("--cap-add CAP_NET_ADMIN", "ip link set lo down")?.code(0)?;
        c.run("--cap-drop CAP_CHOWN", "chown 5 /etc/plain")?
            .failed()?
            .complains("not permitted")
            .map(drop)
    }),
    ("kill and its exit code", |c| {
        let task = Task::new(c, "")?;
        until_caught(task.pid()?, Signal::TERM)?;
        task.ok("kill", "--signal SIGTERM")?;
        task.until("STOPPED")
    }),
    ("kill every process", |c| {
        let task = Task::running(c, "", "sh -c 'sleep 1000 & sleep 1000'")?;
        task.ok("kill", "--all --signal 9")?;
        task.until("STOPPED")
    }),
    ("exec with its exit code", |c| {
        let task = Task::new(c, "")?;
        task.exec("", "sh -c 'echo inside; exit 5'")?
            .code(5)?
            .is("inside")
            .map(drop)
    }),
    ("exec with a terminal, directory and user", |c| {
        let task = Task::new(c, "")?;
        let line = format!(
            "task exec -t --exec-id {} --cwd /srv --user 33:34 {} sh -c 'tty; pwd; id -u'",
            c.client.name(),
            task.name
        );
        c.client
            .terminal(&line, "")?
            .code(0)?
            .has("/dev/pts/")?
            .has("/srv")?
            .has("33")
            .map(drop)
    }),
    ("exec of a missing program fails and the container lives", |c| {
        let task = Task::new(c, "")?;
        task.exec("", "/nosuch")?.failed()?;
        task.exec("", "true")?.code(0).map(drop)
    }),
    ("exec keeps the sandbox", |c| {
        let task = Task::new(c, "--seccomp --cap-drop CAP_CHOWN")?;
        let grep = |pid| {
            format!(
                "sh -c 'grep -E \"^(Cap|NoNewPrivs|Seccomp:)\" /proc/{pid}/status; cat /proc/{pid}/cgroup'"
            )
        };
        let (first, ours) = (task.exec("", &grep("1"))?, task.exec("", &grep("self"))?);
        ours.code(0)?.is(&first.stdout)?.has("Seccomp:\t2").map(drop)
    }),
    ("pause and resume", |c| {
        let task = Task::new(c, "")?;
        task.ok("pause", "")?;
        task.until("PAUSED")?;
        task.ok("resume", "")?;
        task.until("RUNNING")?;
        task.exec("", "true")?.code(0).map(drop)
    }),
    ("the processes of a task", |c| {
        let task = Task::new(c, "")?;
        let pids = task.ok("ps", "")?;
        ensure!(pids.lines().count() >= 2, "{pids}");
        Ok(())
    }),
    ("metrics", |c| {
        let task = Task::new(c, "--memory-limit 67108864")?;
        let metrics = task.ok("metrics", "")?;
        ensure!(
            metrics.contains("memory") && metrics.contains("pids"),
            "{metrics}"
        );
        Ok(())
    }),
    ("remove by force", |c| {
        let task = Task::new(c, "")?;
        task.ok("rm", "-f")?;
        eventually("gone", || task.status().is_empty())
    }),
    ("a pod's containers share the sandbox's namespaces", |c| {
        let sandbox = Task::new(c, "")?;
        let pid = sandbox.pid()?;
        for (option, kind) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
            let options = format!("--with-ns {option}:/proc/{pid}/ns/{kind}");
            c.says(
                &options,
                &format!("readlink /proc/self/ns/{kind}"),
                &theirs.to_string_lossy(),
            )
            .context(option)?;
        }
        Ok(())
    }),
    ("ten at once", |c| {
        let mut children = Vec::new();
        for i in 0..10 {
            let line = c.line("--rm", &c.client.name(), &format!("sh -c 'echo {i}; exit {i}'"));
            children.push(
                c.client
                    .command(&line)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()?,
            );
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
