//! Signals, pauses, restarts, checks of health, events.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use magikrun_tests::dropin::{Check, Client, eventually};
use rustix::process::Signal;

use crate::support::{Sleeper, contains, equal};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("stop sends SIGTERM", |p| {
        let c = Sleeper::new(p, "")?.catching(Signal::TERM)?;
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
        )?
        .catching(Signal::USR1)?;
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
];
