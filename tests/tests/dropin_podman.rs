//! Debian's podman with magikrun as its runtime.
#![cfg(target_os = "linux")]

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use magikrun_tests::dropin::{Check, Client, Stage, busybox_tar, eventually, on_stage, run_checks};

const PROGRAMS: [&str; 5] = ["podman", "conmon", "unshare", "busybox", "catatonit"];

#[test]
fn podman_runs_on_it() {
    on_stage("podman_runs_on_it", &PROGRAMS, all_checks);
}

fn all_checks(stage: &Stage) {
    let path = |name: &str| stage.dir.join(name).display().to_string();
    // More open files than the machines here allow make podman's own default fail. What follows `[engine]` is
    // docs/drop-in.md's.
    let runtime = stage.runtime.display();
    let conf = format!(
        "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\n\
         [engine]\nevents_logger = \"file\"\nevents_logfile_path = \"{}\"\n\
         runtime_supports_json = [\"tested\"]\nruntime_supports_nocgroup = [\"tested\"]\n\
         [engine.runtimes]\ntested = [\"{runtime}\"]\n",
        path("events.log"),
    );
    fs::write(path("containers.conf"), conf).expect("containers.conf");
    let globals = [
        "--root",
        &path("root"),
        "--runroot",
        &path("runroot"),
        "--tmpdir",
        &path("tmp"),
        "--cgroup-manager",
        "cgroupfs",
        "--storage-driver",
        "overlay",
        "--hooks-dir",
        &path("hooks"),
        "--runtime",
        "tested",
    ]
    .map(str::to_owned);
    fs::create_dir(path("hooks")).expect("hooks");
    let environment = [("CONTAINERS_CONF", path("containers.conf")), ("TMPDIR", path(""))];
    let podman = Client::new("podman", &globals, &environment, stage.dir.clone());
    write_hooks(&podman).expect("hooks");
    let tar = busybox_tar(&stage.dir).expect("image");
    let change = "--change ENV=PATH=/bin --change CMD=sh";
    podman
        .ok(&format!("import {change} {} localhost/box", tar.display()))
        .expect("import");
    run_checks("podman", &podman, 2, CHECKS);
}

/// Hooks of every kind that runs outside of the container, for containers with an annotation.
fn write_hooks(podman: &Client) -> Result<()> {
    let dir = podman.dir.display();
    for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
        let script = format!("read state; echo \"$state\" >>{dir}/hook-{stage}");
        let hook = serde_json::json!({
            "version": "1.0.0", "stages": [stage], "when": {"annotations": {"^magikrun.test$": "^hooks$"}},
            "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
        });
        fs::write(format!("{dir}/hooks/{stage}.json"), hook.to_string())?;
    }
    Ok(())
}

/// A detached container that sleeps, removed at the end of its check.
struct Sleeper<'a> {
    podman: &'a Client,
    name: String,
}

impl<'a> Sleeper<'a> {
    fn new(podman: &'a Client, options: &str) -> Result<Self> {
        // A shell that ends at SIGTERM: as PID 1 it would otherwise ignore it.
        Self::running(
            podman,
            options,
            "sh -c \"trap 'exit 3' TERM; while :; do sleep 0.1; done\"",
        )
    }

    fn running(podman: &'a Client, options: &str, command: &str) -> Result<Self> {
        let sleeper = Self {
            podman,
            name: podman.name(),
        };
        podman.ok(&format!("run -d --name {} {options} box {command}", sleeper.name))?;
        Ok(sleeper)
    }

    fn ok(&self, command: &str, arguments: &str) -> Result<String> {
        self.podman.ok(&format!("{command} {} {arguments}", self.name))
    }

    fn exec(&self, options: &str, command: &str) -> Result<String> {
        self.podman.ok(&format!("exec {options} {} {command}", self.name))
    }

    fn status(&self) -> Result<String> {
        self.inspect("State.Status")
    }

    fn inspect(&self, field: &str) -> Result<String> {
        self.podman
            .ok(&format!("inspect --format '{{{{.{field}}}}}' {}", self.name))
    }

    fn until(&self, field: &str, value: &str) -> Result<()> {
        eventually(&format!("{field} {value}"), || {
            self.inspect(field).is_ok_and(|v| v == value)
        })
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let _ = self.podman.run(&format!("rm -f -t 0 {}", self.name));
    }
}

fn equal(found: &str, expected: &str) -> Result<()> {
    ensure!(found == expected, "{found:?} is not {expected:?}");
    Ok(())
}

fn contains(found: &str, part: &str) -> Result<()> {
    ensure!(found.contains(part), "{found:?} has no {part:?}");
    Ok(())
}

/// A file of the container's cgroup, named by its v1 controller and file and by its v2 file.
fn cgroup_file(podman: &Client, options: &str, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let script = format!("cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}");
    podman.ok(&format!("run --rm {options} box sh -c '{script}'"))
}

const CHECKS: &[Check<Client>] = &[
    // Running and its end.
    ("run passes stdout on", |p| {
        p.says("run --rm box echo hello", "hello")
    }),
    ("run keeps stderr apart", |p| {
        let out = p.exits("run --rm box sh -c 'echo out; echo err >&2'", 0)?;
        out.is("out")?.complains("err").map(drop)
    }),
    ("run passes stdin on", |p| {
        p.input("run --rm -i box cat", b"typed")?
            .code(0)?
            .is("typed")
            .map(drop)
    }),
    ("run passes the exit code on", |p| {
        p.exits("run --rm box sh -c 'exit 7'", 7).map(drop)
    }),
    ("a signalled program ends with 128 + n", |p| {
        p.exits("run --rm --init box sh -c 'kill -9 $$'", 137).map(drop)
    }),
    ("a missing program is 127", |p| {
        p.exits("run --rm box /nosuch", 127)?
            .complains("no such file")
            .map(drop)
    }),
    ("a missing program in PATH is 127", |p| {
        p.exits("run --rm box nosuch", 127).map(drop)
    }),
    ("what is no program is 126", |p| {
        p.exits("run --rm box /etc/plain", 126)?
            .complains("permission denied")
            .map(drop)
    }),
    ("a directory is no program", |p| {
        p.exits("run --rm box /etc", 126).map(drop)
    }),
    ("working directory", |p| {
        p.says("run --rm -w /srv box pwd", "/srv")
    }),
    ("environment", |p| {
        p.says("run --rm -e A=b box sh -c 'echo $A'", "b")
    }),
    ("HOME comes from passwd", |p| {
        p.says("run --rm -u web box sh -c 'echo $HOME'", "/srv")
    }),
    ("hostname", |p| {
        p.says("run --rm --hostname box.test box hostname", "box.test")
    }),
    ("entrypoint", |p| {
        p.says("run --rm --entrypoint echo box a b", "a b")
    }),
    ("user by number", |p| {
        p.says("run --rm -u 1000:50 box sh -c 'id -u; id -g'", "1000\n50")
    }),
    ("user by name", |p| {
        p.says(
            "run --rm -u web box id",
            "uid=33(web) gid=34(www) groups=34(www),44(extra)",
        )
    }),
    ("supplementary group", |p| {
        p.ok("run --rm --group-add 77 box id -G")
            .and_then(|o| contains(&o, "77"))
    }),
    ("umask", |p| {
        p.says("run --rm --umask 0077 box sh -c umask", "0077")
    }),
    ("init as pid 1", |p| {
        p.ok("run --rm --init box cat /proc/1/cmdline")
            .and_then(|o| contains(&o, "init"))
    }),
    ("the program is pid 1", |p| {
        p.says("run --rm box sh -c 'echo $$'", "1")
    }),
    // Terminals.
    ("a terminal", |p| {
        p.terminal("run --rm -t box tty", "")?
            .code(0)?
            .has("/dev/pts/0")
            .map(drop)
    }),
    ("the terminal has the caller's size", |p| {
        // It is told when the program may already run.
        p.terminal("run --rm -it box sh -c 'sleep 0.3; stty size'", "")?
            .has("40 100")
            .map(drop)
    }),
    ("typing into a terminal", |p| {
        p.terminal("run --rm -it box sh", "echo $((6*7))\nexit 5\n")?
            .code(5)?
            .has("42")
            .map(drop)
    }),
    ("a terminal of another user is theirs", |p| {
        let line = "run --rm -t -u 1000 box sh -c 'echo x >/dev/tty && stat -c %u $(tty)'";
        p.terminal(line, "")?.code(0)?.has("1000").map(drop)
    }),
    ("/dev/console is the terminal", |p| {
        p.terminal("run --rm -t box sh -c 'echo here >/dev/console'", "")?
            .has("here")
            .map(drop)
    }),
    // In the background.
    ("detached, waited for", |p| {
        let c = Sleeper::running(p, "", "sh -c 'sleep 0.3; exit 4'")?;
        equal(&c.ok("wait", "")?, "4")
    }),
    ("logs", |p| {
        let c = Sleeper::running(p, "", "sh -c 'echo one; echo two >&2'")?;
        c.ok("wait", "")?;
        p.exits(&format!("logs {}", c.name), 0)?
            .is("one")?
            .complains("two")
            .map(drop)
    }),
    ("logs of a terminal", |p| {
        let c = Sleeper::running(p, "-t", "echo from a terminal")?;
        c.ok("wait", "")?;
        equal(&c.ok("logs", "")?, "from a terminal")
    }),
    ("created, then started and attached", |p| {
        let name = p.name();
        p.ok(&format!("create --name {name} box sh -c 'echo attached; exit 6'"))?;
        let c = Sleeper { podman: p, name };
        p.exits(&format!("start -a {}", c.name), 6)?
            .is("attached")
            .map(drop)
    }),
    ("run --rm leaves no container", |p| {
        let name = p.name();
        p.ok(&format!("run --rm --name {name} box true"))?;
        p.run(&format!("inspect {name}"))?.failed().map(drop)
    }),
    // Namespaces.
    ("a network of its own has loopback only", |p| {
        p.says("run --rm box ls /sys/class/net", "lo")
    }),
    ("the host's network", |p| {
        let host = fs::read_link("/proc/thread-self/ns/net")?;
        p.says(
            "run --rm --net host box readlink /proc/self/ns/net",
            &host.to_string_lossy(),
        )
    }),
    ("the host's pids", |p| {
        p.ok("run --rm --pid host box sh -c 'echo $$'").and_then(|o| {
            ensure!(o != "1", "pid 1");
            Ok(())
        })
    }),
    ("the host's ipc and uts", |p| {
        for kind in ["ipc", "uts"] {
            let host = fs::read_link(format!("/proc/thread-self/ns/{kind}"))?;
            p.says(
                &format!("run --rm --{kind} host box readlink /proc/self/ns/{kind}"),
                &host.to_string_lossy(),
            )?;
        }
        Ok(())
    }),
    ("another container's network, ipc and pids", |p| {
        let c = Sleeper::new(p, "--ipc shareable")?;
        for (option, kind) in [("net", "net"), ("ipc", "ipc"), ("pid", "pid")] {
            let theirs = c.exec("", &format!("readlink /proc/1/ns/{kind}"))?;
            p.says(
                &format!(
                    "run --rm --{option} container:{} box readlink /proc/self/ns/{kind}",
                    c.name
                ),
                &theirs,
            )?;
        }
        Ok(())
    }),
    ("a cgroup namespace", |p| {
        p.ok("run --rm --cgroupns private box cat /proc/self/cgroup")
            .and_then(|o| contains(&o, ":/\n"))
    }),
    ("a user namespace", |p| {
        let out = p.ok("run --rm --uidmap 0:100000:1000 --gidmap 0:200000:1000 box sh -c 'cat /proc/self/uid_map /proc/self/gid_map; id -u'")?;
        let words: Vec<_> = out.split_whitespace().collect();
        ensure!(
            words == ["0", "100000", "1000", "0", "200000", "1000", "0"],
            "{out}"
        );
        Ok(())
    }),
    ("a user namespace with a volume and a terminal", |p| {
        let dir = p.directory()?;
        fs::write(format!("{dir}/f"), "mapped\n")?;
        let line = format!("run --rm -t --uidmap 0:100000:1000 -v {dir}:/v box cat /v/f");
        p.terminal(&line, "")?.code(0)?.has("mapped").map(drop)
    }),
    // Mounts.
    ("a bind mount", |p| {
        let dir = p.directory()?;
        p.ok(&format!("run --rm -v {dir}:/v box sh -c 'echo written >/v/f'"))?;
        equal(&fs::read_to_string(format!("{dir}/f"))?, "written\n")
    }),
    ("a read-only bind mount", |p| {
        let dir = p.directory()?;
        p.exits(&format!("run --rm -v {dir}:/v:ro box sh -c 'echo x >/v/f'"), 1)?
            .complains("read-only")
            .map(drop)
    }),
    ("a bind mount of a file", |p| {
        let dir = p.directory()?;
        fs::write(format!("{dir}/f"), "the file\n")?;
        p.says(
            &format!("run --rm -v {dir}/f:/etc/mounted:ro box cat /etc/mounted"),
            "the file",
        )
    }),
    ("mount propagation", |p| {
        for (option, word) in [("shared", "shared:"), ("slave", "master:"), ("private", "")] {
            let dir = p.directory()?;
            let status = Command::new("sh")
                .args([
                    "-c",
                    &format!("mount -t tmpfs t {dir} && mount --make-shared {dir}"),
                ])
                .status()?;
            ensure!(status.success(), "mount");
            let line =
                format!("run --rm -v {dir}:/v:{option} box sh -c 'grep \" /v \" /proc/self/mountinfo'");
            let out = p.ok(&line);
            Command::new("umount").args(["-l", &dir]).status()?;
            let out = out?;
            ensure!(
                if word.is_empty() {
                    !out.contains("shared:") && !out.contains("master:")
                } else {
                    out.contains(word)
                },
                "{option}: {out}"
            );
        }
        Ok(())
    }),
    ("a named volume keeps its data", |p| {
        let volume = p.name();
        p.ok(&format!("run --rm -v {volume}:/v box sh -c 'echo kept >/v/f'"))?;
        p.says(&format!("run --rm -v {volume}:/v box cat /v/f"), "kept")?;
        p.ok(&format!("volume rm {volume}")).map(drop)
    }),
    ("another container's volumes", |p| {
        let c = Sleeper::new(p, "-v /shared")?;
        c.exec("", "sh -c 'echo theirs >/shared/f'")?;
        p.says(
            &format!("run --rm --volumes-from {} box cat /shared/f", c.name),
            "theirs",
        )
    }),
    ("a tmpfs", |p| {
        p.ok("run --rm --tmpfs /t:size=1m,mode=1777 box sh -c 'grep \" /t \" /proc/mounts'")
            .and_then(|o| {
                contains(&o, "tmpfs")?;
                contains(&o, "size=1024k")
            })
    }),
    ("a tmpfs over a directory starts with its files", |p| {
        p.says("run --rm --tmpfs /data box cat /data/file", "from image")
    }),
    ("a read-only root", |p| {
        p.exits("run --rm --read-only box touch /x", 1)?
            .complains("read-only")
            .map(drop)
    }),
    ("a read-only root with writable /tmp", |p| {
        p.ok("run --rm --read-only --read-only-tmpfs box touch /tmp/x /run/x")
            .map(drop)
    }),
    ("the size of /dev/shm", |p| {
        p.ok("run --rm --shm-size 2m box sh -c 'grep /dev/shm /proc/mounts'")
            .and_then(|o| contains(&o, "size=2048k"))
    }),
    ("only the standard devices", |p| {
        let out = p.ok("run --rm box sh -c 'ls /dev'")?;
        let unexpected: Vec<_> = out
            .split_whitespace()
            .filter(|d| {
                ![
                    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
                    "stderr", "stdin", "stdout", "tty", "urandom", "zero",
                ]
                .contains(d)
            })
            .collect();
        ensure!(unexpected.is_empty(), "{unexpected:?}");
        Ok(())
    }),
    // Security.
    ("the default capabilities", |p| {
        p.says(
            "run --rm box sh -c 'grep CapBnd /proc/self/status'",
            "CapBnd:\t00000000a80425fb",
        )
    }),
    ("no capabilities for another user", |p| {
        p.says(
            "run --rm -u 1000 box sh -c 'grep CapEff /proc/self/status'",
            "CapEff:\t0000000000000000",
        )
    }),
    ("capabilities dropped", |p| {
        p.says(
            "run --rm --cap-drop ALL box sh -c 'grep CapEff /proc/self/status'",
            "CapEff:\t0000000000000000",
        )
    }),
    ("a capability added", |p| {
        p.run("run --rm box ip link set lo down")?.failed()?;
        p.ok("run --rm --cap-add NET_ADMIN box ip link set lo down")
            .map(drop)
    }),
    ("no new privileges", |p| {
        p.says(
            "run --rm --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1",
        )
    }),
    ("seccomp filters", |p| {
        p.says("run --rm box grep Seccomp: /proc/self/status", "Seccomp:\t2")
    }),
    ("seccomp off", |p| {
        p.says(
            "run --rm --security-opt seccomp=unconfined box grep Seccomp: /proc/self/status",
            "Seccomp:\t0",
        )
    }),
    ("a seccomp profile of the user's", |p| {
        let file = format!("{}/profile.json", p.directory()?);
        let rule = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
        fs::write(&file, rule.to_string())?;
        p.exits(&format!("run --rm --security-opt seccomp={file} box mkdir /x"), 1)?
            .complains("no space left")
            .map(drop)
    }),
    ("masked paths", |p| {
        let masked = "--security-opt mask=/data:/etc/plain";
        p.says(
            &format!("run --rm {masked} box sh -c 'ls /data; cat /etc/plain; ls /proc/acpi 2>/dev/null'"),
            "",
        )?;
        p.run(&format!("run --rm {masked} box touch /data/x"))?
            .failed()
            .map(drop)
    }),
    ("read-only paths", |p| {
        p.run("run --rm box sh -c 'echo 1 >/proc/sys/kernel/panic'")?
            .failed()?
            .complains("read-only")
            .map(drop)
    }),
    ("paths unmasked", |p| {
        p.ok("run --rm box grep -q ' /proc/sys ' /proc/mounts")?;
        p.exits(
            "run --rm --security-opt unmask=ALL box grep ' /proc/sys ' /proc/mounts",
            1,
        )
        .map(drop)
    }),
    ("a sysctl", |p| {
        p.says("run --rm --sysctl net.ipv4.ip_unprivileged_port_start=81 box cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81")
    }),
    ("resource limits of the process", |p| {
        p.says("run --rm --ulimit nofile=512:1024 --ulimit core=0 --ulimit nproc=32768:32768 box sh -c 'ulimit -n; ulimit -Hn; ulimit -c'", "512\n1024\n0")
    }),
    ("a device", |p| {
        p.says(
            "run --rm --device /dev/zero:/dev/nought box sh -c 'head -c 3 /dev/nought | wc -c'",
            "3",
        )
    }),
    ("a device read-only", |p| {
        let line = |script| format!("run --rm --device /dev/fuse:/dev/given:r box sh -c '{script}'");
        p.ok(&line(": </dev/given"))?;
        p.run(&line(": >/dev/given"))?
            .failed()?
            .complains("not permitted")
            .map(drop)
    }),
    ("a device that was not given cannot be opened", |p| {
        p.run("run --rm --cap-add MKNOD box sh -c 'mknod /x c 10 229 && : </x'")?
            .failed()?
            .complains("not permitted")
            .map(drop)
    }),
    ("a device rule", |p| {
        p.ok("run --rm --cap-add MKNOD --device-cgroup-rule 'c 10:229 r' box sh -c 'mknod /x c 10 229 && : </x'").map(drop)
    }),
    // Resources.
    ("a memory limit", |p| {
        equal(
            &cgroup_file(p, "--memory 64m", "memory", "memory.limit_in_bytes", "memory.max")?,
            "67108864",
        )
    }),
    ("a processor quota", |p| {
        let out = cgroup_file(p, "--cpus 0.5", "cpu", "cpu.cfs_quota_us", "cpu.max")?;
        ensure!(out == "50000" || out == "50000 100000", "{out}");
        Ok(())
    }),
    ("processor shares", |p| {
        let out = cgroup_file(p, "--cpu-shares 512", "cpu", "cpu.shares", "cpu.weight")?;
        ensure!(out == "512" || out == "20" || out == "59", "{out}");
        Ok(())
    }),
    ("a processor set", |p| {
        p.ok("run --rm --cpuset-cpus 0 box grep Cpus_allowed_list /proc/self/status")
            .and_then(|o| equal(&o, "Cpus_allowed_list:\t0"))
    }),
    ("a limit of processes", |p| {
        equal(
            &cgroup_file(p, "--pids-limit 20", "pids", "pids.max", "pids.max")?,
            "20",
        )
    }),
    ("the oom score", |p| {
        p.says(
            "run --rm --oom-score-adj 500 box cat /proc/self/oom_score_adj",
            "500",
        )
    }),
    ("out of memory is 137", |p| {
        // Whether conmon 2.1.6 notices an out-of-memory kill in time to say so is a matter of luck, with every runtime.
        let c = Sleeper::running(p, "--memory 24m --memory-swap 24m", "tail /dev/zero")?;
        equal(&c.ok("wait", "")?, "137")
    }),
    ("update changes a live container", |p| {
        let c = Sleeper::new(p, "--memory 64m --memory-swap 128m")?;
        p.ok(&format!(
            "update --memory 48m --memory-swap 128m --cpu-shares 300 {}",
            c.name
        ))?;
        let script =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        equal(&c.exec("", &format!("sh -c '{script}'"))?, "50331648")
    }),
    ("stats", |p| {
        let c = Sleeper::new(p, "--memory 64m --memory-swap 64m")?;
        let out = p.ok(&format!(
            "stats --no-stream --format '{{{{.PIDs}}}} {{{{.MemUsage}}}}' {}",
            c.name
        ))?;
        contains(&out, "67.11MB")
    }),
    ("top", |p| {
        Sleeper::new(p, "")?
            .ok("top", "")
            .and_then(|o| contains(&o, "sleep"))
    }),
    // exec.
    ("exec", |p| {
        Sleeper::new(p, "")?
            .exec("", "echo inside")
            .and_then(|o| equal(&o, "inside"))
    }),
    ("exec passes the exit code on", |p| {
        let c = Sleeper::new(p, "")?;
        p.exits(&format!("exec {} sh -c 'exit 9'", c.name), 9)?;
        p.exits(&format!("exec {} sh -c 'kill -15 $$'", c.name), 143)
            .map(drop)
    }),
    ("exec of a missing program is 127", |p| {
        let c = Sleeper::new(p, "")?;
        p.exits(&format!("exec {} nosuch", c.name), 127).map(drop)
    }),
    ("exec of what is no program is 126", |p| {
        let c = Sleeper::new(p, "")?;
        p.exits(&format!("exec {} /etc/plain", c.name), 126).map(drop)
    }),
    ("exec with a terminal", |p| {
        let c = Sleeper::new(p, "")?;
        let line = format!("exec -it {} sh", c.name);
        p.terminal(&line, "tty; stty size; echo $((6*7)); exit 5\n")?
            .code(5)?
            .has("/dev/pts/")?
            .has("42")
            .map(drop)
    }),
    ("exec with stdin", |p| {
        let c = Sleeper::new(p, "")?;
        p.input(&format!("exec -i {} cat", c.name), b"typed")?
            .code(0)?
            .is("typed")
            .map(drop)
    }),
    ("exec as another user", |p| {
        let c = Sleeper::new(p, "")?;
        equal(&c.exec("-u web", "id -un")?, "web")?;
        equal(&c.exec("-u 5:6", "sh -c 'id -u; id -g'")?, "5\n6")
    }),
    ("exec with environment and directory", |p| {
        let c = Sleeper::new(p, "-e A=from-run -w /srv")?;
        equal(&c.exec("-e B=c", "sh -c 'echo $A $B; pwd'")?, "from-run c\n/srv")?;
        equal(&c.exec("-w /tmp", "pwd")?, "/tmp")
    }),
    ("exec keeps the sandbox", |p| {
        let c = Sleeper::new(
            p,
            "--cap-drop CHOWN --security-opt no-new-privileges --ulimit nofile=300:300 --ulimit nproc=32768:32768 -u web",
        )?;
        let status = "sh -c 'grep -E \"^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp|Uid|Gid)\" /proc/self/status; ulimit -n; cat /proc/self/cgroup'";
        let (ours, first) = (c.exec("", status)?, c.exec("", "sh -c 'grep -E \"^(Cap(Bnd|Eff)|NoNewPrivs|Seccomp|Uid|Gid)\" /proc/1/status; ulimit -n; cat /proc/1/cgroup'")?);
        equal(&ours, &first)?;
        contains(&ours, "Seccomp:\t2")?;
        contains(&ours, "NoNewPrivs:\t1")
    }),
    ("exec enters the user namespace", |p| {
        let c = Sleeper::new(p, "--uidmap 0:100000:1000 --gidmap 0:100000:1000")?;
        let out = c.exec(
            "",
            "sh -c 'cat /proc/self/uid_map; readlink /proc/self/ns/user; id -u'",
        )?;
        ensure!(
            out.split_whitespace().nth(1) == Some("100000") && out.ends_with("\n0"),
            "{out}"
        );
        let line = format!("exec -t -u 5 {} sh -c 'id -u; stat -c %u $(tty)'", c.name);
        p.terminal(&line, "")?.code(0)?.is("5\n5").map(drop)
    }),
    ("exec in the background", |p| {
        let c = Sleeper::new(p, "")?;
        c.exec("-d", "sh -c 'echo done >/tmp/flag'")?;
        eventually("the file", || {
            c.exec("", "cat /tmp/flag").is_ok_and(|o| o == "done")
        })
    }),
    // Life.
    ("stop sends SIGTERM", |p| {
        let c = Sleeper::new(p, "")?;
        c.ok("stop", "")?;
        equal(&c.inspect("State.ExitCode")?, "3")
    }),
    ("stop kills what does not end", |p| {
        let c = Sleeper::running(p, "", "sleep 100")?;
        c.ok("stop", "-t 1")?;
        equal(&c.inspect("State.ExitCode")?, "137")
    }),
    ("a stop signal of the user's", |p| {
        let c = Sleeper::running(
            p,
            "--stop-signal USR1",
            "sh -c \"trap 'exit 8' USR1; while :; do sleep 0.1; done\"",
        )?;
        c.ok("stop", "")?;
        equal(&c.inspect("State.ExitCode")?, "8")
    }),
    ("kill", |p| {
        let c = Sleeper::running(
            p,
            "",
            "sh -c \"trap 'echo got it' USR2; while :; do sleep 0.1; done\"",
        )?;
        eventually("the trap", || {
            p.run(&format!("kill -s USR2 {}", c.name)).is_ok()
                && c.ok("logs", "").is_ok_and(|o| o.contains("got it"))
        })?;
        c.ok("kill", "")?;
        equal(&c.ok("wait", "")?, "137")
    }),
    ("restart", |p| {
        let c = Sleeper::new(p, "")?;
        let before = c.inspect("State.Pid")?;
        c.ok("restart", "")?;
        ensure!(c.inspect("State.Pid")? != before, "the same process");
        equal(&c.status()?, "running")
    }),
    ("start after stop", |p| {
        let c = Sleeper::new(p, "")?;
        c.exec("", "touch /kept")?;
        c.ok("stop", "")?;
        c.ok("start", "")?;
        c.exec("", "ls /kept").map(drop)
    }),
    ("pause and unpause", |p| {
        let c = Sleeper::new(p, "")?;
        c.ok("pause", "")?;
        equal(&c.status()?, "paused")?;
        p.run(&format!("exec {} true", c.name))?.failed()?;
        c.ok("unpause", "")?;
        equal(&c.status()?, "running")?;
        c.exec("", "true").map(drop)
    }),
    ("a paused container can be removed", |p| {
        let c = Sleeper::new(p, "")?;
        c.ok("pause", "")?;
        c.ok("rm", "-f -t 0")?;
        p.run(&format!("inspect {}", c.name))?.failed().map(drop)
    }),
    ("rm -f of a running container", |p| {
        Sleeper::new(p, "")?.ok("rm", "-f -t 0").map(drop)
    }),
    ("a restart policy", |p| {
        let c = Sleeper::running(p, "--restart on-failure:2", "sh -c 'exit 3'")?;
        c.until("RestartCount", "2")?;
        c.until("State.Status", "exited")
    }),
    ("attach", |p| {
        let c = Sleeper::running(p, "-i", "cat")?;
        p.input(&format!("attach {}", c.name), b"typed")?
            .code(0)?
            .has("typed")
            .map(drop)
    }),
    ("inspect knows the process", |p| {
        let c = Sleeper::new(p, "")?;
        let pid = c.inspect("State.Pid")?;
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).with_context(|| pid)?;
        equal(comm.trim(), "sh")
    }),
    ("cp into and out of a container", |p| {
        let c = Sleeper::new(p, "")?;
        let dir = p.directory()?;
        fs::write(format!("{dir}/in"), "copied\n")?;
        p.ok(&format!("cp {dir}/in {}:/srv/in", c.name))?;
        equal(&c.exec("", "cat /srv/in")?, "copied")?;
        p.ok(&format!("cp {}:/data/file {dir}/out", c.name))?;
        equal(&fs::read_to_string(format!("{dir}/out"))?, "from image\n")
    }),
    ("commit a running container", |p| {
        let c = Sleeper::new(p, "")?;
        c.exec("", "touch /committed")?;
        let image = format!("localhost/{}", c.name);
        p.ok(&format!("commit -q {} {image}", c.name))?;
        p.ok(&format!("run --rm {image} ls /committed"))?;
        p.ok(&format!("rmi -f {image}")).map(drop)
    }),
    ("a health check", |p| {
        let c = Sleeper::new(
            p,
            "--health-cmd 'test -e /healthy' --health-interval disable --health-retries 1",
        )?;
        p.run(&format!("healthcheck run {}", c.name))?.failed()?;
        c.exec("", "touch /healthy")?;
        c.ok("healthcheck run", "").map(drop)
    }),
    ("events", |p| {
        let name = p.name();
        p.ok(&format!("run --rm --name {name} box true"))?;
        let out = p.ok(&format!(
            "events --stream=false --filter container={name} --format '{{{{.Status}}}}'"
        ))?;
        for status in ["create", "start", "died", "remove"] {
            contains(&out, status)?;
        }
        Ok(())
    }),
    ("hooks of every kind get the state", |p| {
        let c = Sleeper::new(p, "--annotation magikrun.test=hooks")?;
        let id = c.inspect("Id")?;
        c.ok("stop", "")?;
        c.ok("rm", "-f")?;
        for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
            let text = fs::read_to_string(p.dir.join(format!("hook-{stage}"))).context(stage)?;
            contains(&text, &id).context(stage)?;
        }
        Ok(())
    }),
    ("no cgroups at all", |p| {
        p.says("run --rm --cgroups disabled box echo free", "free")
    }),
    ("descriptors passed on", |p| {
        let dir = p.directory()?;
        fs::write(format!("{dir}/f"), "fd three\n")?;
        let line = "run --rm --preserve-fds 1 box sh -c 'cat <&3'";
        let podman = p.command(line);
        let words: Vec<_> = podman
            .get_args()
            .map(|a| shlex::try_quote(&a.to_string_lossy()).map(std::borrow::Cow::into_owned))
            .collect::<Result<_, _>>()?;
        let script = format!("exec timeout {} 3<{dir}/f", words.join(" "));
        let out = Command::new("bash")
            .args(["-c", &script])
            .envs(podman.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .output()?;
        equal(&String::from_utf8_lossy(&out.stdout), "fd three\n")
            .with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())
    }),
    // Pods.
    ("a pod shares its network, ipc and hostname", |p| {
        let pod = p.name();
        p.ok(&format!("pod create --name {pod} --hostname in-a-pod"))?;
        let run = || -> Result<()> {
            p.ok(&format!("run -d --pod {pod} --name {pod}-a box sh -c 'echo in the pod >/dev/shm/f; nc -l -p 7000 -e echo over loopback'"))?;
            for (kind, command) in [
                ("net", "readlink /proc/self/ns/net"),
                ("ipc", "readlink /proc/self/ns/ipc"),
                ("uts", "hostname"),
            ] {
                let theirs = p.ok(&format!("exec {pod}-a {command}"))?;
                p.says(&format!("run --rm --pod {pod} box {command}"), &theirs)
                    .context(kind)?;
            }
            p.says(&format!("run --rm --pod {pod} box hostname"), "in-a-pod")?;
            let client =
                "sh -c 'for i in 1 2 3 4 5; do nc 127.0.0.1 7000 </dev/null && break; sleep 0.2; done'";
            p.says(&format!("run --rm --pod {pod} box {client}"), "over loopback")
        };
        let result = run();
        p.ok(&format!("pod rm -f -t 0 {pod}"))?;
        result
    }),
    ("a pod with shared pids", |p| {
        let pod = p.name();
        p.ok(&format!("pod create --name {pod} --share +pid"))?;
        let run = || -> Result<()> {
            p.ok(&format!("run -d --pod {pod} box sleep 111"))?;
            p.ok(&format!("run --rm --pod {pod} box ps"))
                .and_then(|o| contains(&o, "sleep 111"))
        };
        let result = run();
        p.ok(&format!("pod rm -f -t 0 {pod}"))?;
        result
    }),
    ("a pod stops, starts, pauses and goes as a whole", |p| {
        let pod = p.name();
        p.ok(&format!("pod create --name {pod}"))?;
        let run = || -> Result<()> {
            p.ok(&format!("run -d --pod {pod} --name {pod}-a box sh -c \"trap 'exit 0' TERM; while :; do sleep 0.1; done\""))?;
            p.ok(&format!("pod pause {pod}"))?;
            p.says(
                &format!("inspect --format '{{{{.State.Status}}}}' {pod}-a"),
                "paused",
            )?;
            p.ok(&format!("pod unpause {pod}"))?;
            p.ok(&format!("pod stop -t 2 {pod}"))?;
            p.says(
                &format!("inspect --format '{{{{.State.Status}}}}' {pod}-a"),
                "exited",
            )?;
            p.ok(&format!("pod start {pod}"))?;
            p.says(
                &format!("inspect --format '{{{{.State.Status}}}}' {pod}-a"),
                "running",
            )
        };
        let result = run();
        p.ok(&format!("pod rm -f -t 0 {pod}"))?;
        result
    }),
    ("kube play and down", |p| {
        let pod = p.name();
        let file = format!("{}/pod.yaml", p.directory()?);
        // Without init containers: podman 4.3 waits 20 seconds for each, and then fails often, with every runtime.
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {pod}\nspec:\n  containers:\n  - name: web\n    image: localhost/box\n    \
             command: [sh, -c, 'echo ready >/work/f; sleep 100']\n    env: [{{name: A, value: b}}]\n    \
             resources: {{limits: {{memory: 32Mi}}}}\n    securityContext: {{readOnlyRootFilesystem: true}}\n    \
             volumeMounts: [{{name: work, mountPath: /work}}]\n  - name: reader\n    image: localhost/box\n    \
             command: [sh, -c, 'until cat /work/f; do sleep 0.1; done; sleep 100']\n    securityContext: {{runAsUser: 33}}\n    \
             volumeMounts: [{{name: work, mountPath: /work}}]\n  volumes: [{{name: work, emptyDir: {{}}}}]\n"
        );
        fs::write(&file, yaml)?;
        p.ok(&format!("kube play {file}"))?;
        let check = || -> Result<()> {
            eventually("the log", || {
                p.ok(&format!("logs {pod}-reader")).is_ok_and(|o| o == "ready")
            })?;
            p.says(&format!("exec {pod}-reader id -u"), "33")?;
            p.says(
                &format!("exec {pod}-web sh -c 'echo $A; touch /x 2>/dev/null || echo read-only'"),
                "b\nread-only",
            )
        };
        let result = check();
        p.ok(&format!("kube down {file}"))?;
        result
    }),
    ("20 containers at once", |p| {
        let names: Vec<_> = (0..20).map(|_| p.name()).collect();
        let mut children = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let mut command = p.command(&format!("run --rm --name {name} box sh -c 'echo {i}; exit {i}'"));
            children.push(
                command
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()?,
            );
        }
        for (i, child) in children.into_iter().enumerate() {
            let out = child.wait_with_output()?;
            let stderr = String::from_utf8_lossy(&out.stderr);
            ensure!(
                out.status.code() == i32::try_from(i).ok(),
                "container {i}: {:?}: {stderr}",
                out.status
            );
            ensure!(
                String::from_utf8_lossy(&out.stdout).trim() == i.to_string(),
                "container {i}: {out:?}"
            );
        }
        Ok(())
    }),
];
