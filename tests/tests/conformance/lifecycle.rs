//! create, start, state, kill, delete (runtime-spec, "Runtime and Lifecycle").

use std::fs;

use anyhow::{Result, ensure};
use magikrun_test_world::cgroups_named;
use serde_json::json;

use crate::harness::{Check, Runtime, eventually};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "create: makes a container in state created",
        run: create,
    },
    Check {
        name: "create: an id that exists is refused",
        run: create_twice,
    },
    Check {
        name: "create: without an id is refused",
        run: create_without_id,
    },
    Check {
        name: "create: a bundle without config is refused",
        run: create_without_config,
    },
    Check {
        name: "create: does not run the program",
        run: create_does_not_run,
    },
    Check {
        name: "create: pid file holds the state's pid",
        run: pid_file,
    },
    Check {
        name: "start: runs the program",
        run: start,
    },
    Check {
        name: "start: a second time is refused",
        run: start_twice,
    },
    Check {
        name: "start: an unknown id is refused",
        run: |r| unknown(r, "start", &[]),
    },
    Check {
        name: "start: a program that is missing fails",
        run: start_missing_program,
    },
    Check {
        name: "start: changes to config.json after create have no effect",
        run: late_config,
    },
    Check {
        name: "state: has the spec's fields",
        run: state,
    },
    Check {
        name: "state: an unknown id is refused",
        run: |r| unknown(r, "state", &[]),
    },
    Check {
        name: "state: annotations are those of the config",
        run: annotations,
    },
    Check {
        name: "kill: an unknown id is refused",
        run: |r| unknown(r, "kill", &["KILL"]),
    },
    Check {
        name: "kill: a created container",
        run: kill_created,
    },
    Check {
        name: "kill: a stopped container is refused and unchanged",
        run: kill_stopped,
    },
    Check {
        name: "kill: signals arrive by name and number",
        run: kill_signals,
    },
    Check {
        name: "delete: an unknown id is refused",
        run: |r| unknown(r, "delete", &[]),
    },
    Check {
        name: "delete: a running container is refused",
        run: delete_running,
    },
    Check {
        name: "delete: a stopped container is gone",
        run: delete_stopped,
    },
    Check {
        name: "delete: its cgroups are gone",
        run: delete_cgroups,
    },
    Check {
        name: "config: unknown properties are ignored",
        run: unknown_property,
    },
    Check {
        name: "config: an invalid ociVersion is refused",
        run: |r| r.refuses(|c| c["ociVersion"] = json!("one")),
    },
    Check {
        name: "config: a missing rootfs is refused",
        run: |r| r.refuses(|c| c["root"]["path"] = json!("nowhere")),
    },
];

fn create(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    ensure!(b.state()?["status"] == "created");
    Ok(())
}

fn create_twice(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    ensure!(
        !b.create_with(&[])?.status.success(),
        "the second create succeeded"
    );
    ensure!(
        b.state()?["status"] == "created",
        "the first one did not survive it"
    );
    Ok(())
}

fn create_without_id(r: &Runtime) -> Result<()> {
    let b = r.bundle("true")?;
    b.save()?;
    ensure!(
        !r.output(&["create", "--bundle", b.dir().to_str().unwrap()], b.dir())?
            .status
            .success()
    );
    Ok(())
}

fn create_without_config(r: &Runtime) -> Result<()> {
    let b = r.bundle("true")?;
    ensure!(
        !r.output(&["create", "--bundle", b.dir().to_str().unwrap(), &b.id], b.dir())?
            .status
            .success()
    );
    b.fails("state", &[])
}

fn create_does_not_run(r: &Runtime) -> Result<()> {
    let b = r.bundle("touch /ran")?;
    b.create()?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    ensure!(!b.rootfs().join("ran").exists(), "the program ran before start");
    b.start_to_end()?;
    ensure!(b.rootfs().join("ran").exists(), "the program did not run");
    Ok(())
}

fn pid_file(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    let file = b.dir().join("pid");
    ensure!(
        b.create_with(&["--pid-file", file.to_str().unwrap()])?
            .status
            .success()
    );
    let written = fs::read_to_string(file)?;
    ensure!(
        written == b.pid()?.to_string(),
        "pid file {written:?}, state {}",
        b.pid()?
    );
    Ok(())
}

fn start(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    b.ok("start", &[])?;
    ensure!(b.state()?["status"] == "running");
    Ok(())
}

fn start_twice(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    b.ok("start", &[])?;
    b.fails("start", &[])?;
    ensure!(
        b.state()?["status"] == "running",
        "the refused start changed its state"
    );
    Ok(())
}

fn start_missing_program(r: &Runtime) -> Result<()> {
    r.refuses(|c| c["process"]["args"] = json!(["/no/such/program"]))
}

fn late_config(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("echo first > /out")?;
    b.create()?;
    b.config["process"]["args"] = json!(["/bin/sh", "-c", "echo second > /out"]);
    b.save()?;
    b.start_to_end()?;
    ensure!(fs::read_to_string(b.rootfs().join("out"))? == "first\n");
    Ok(())
}

fn state(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    let state = b.state()?;
    ensure!(
        state["ociVersion"].is_string() && state["id"] == b.id.as_str(),
        "{state}"
    );
    ensure!(
        state["bundle"] == b.dir().to_str().unwrap() && state["pid"].as_i64().is_some_and(|p| p > 1),
        "{state}"
    );
    b.start_to_end_by_kill()?;
    ensure!(
        b.state()?["pid"].as_i64().unwrap_or(0) == 0,
        "a stopped container has a pid"
    );
    Ok(())
}

fn annotations(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("sleep 100")?;
    b.config["annotations"] = json!({"org.example.key": "value", "empty": ""});
    b.create()?;
    ensure!(b.state()?["annotations"]["org.example.key"] == "value");
    Ok(())
}

fn unknown(r: &Runtime, operation: &str, args: &[&str]) -> Result<()> {
    let b = r.bundle("true")?;
    b.fails(operation, args)
}

fn kill_created(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    b.ok("kill", &["KILL"])?;
    b.until("stopped")
}

fn kill_stopped(r: &Runtime) -> Result<()> {
    let b = r.bundle("true")?;
    b.create()?;
    b.start_to_end()?;
    b.fails("kill", &["TERM"])?;
    ensure!(b.state()?["status"] == "stopped");
    Ok(())
}

fn kill_signals(r: &Runtime) -> Result<()> {
    let script = "for s in TERM USR1 USR2 HUP INT; do trap \"echo $s >> /got\" $s; done; touch /ready; while :; do sleep 0.02; done";
    let b = r.bundle(script)?;
    b.create()?;
    b.ok("start", &[])?;
    eventually("ready", || Ok(b.rootfs().join("ready").exists()))?;
    for (sent, name) in [
        ("TERM", "TERM"),
        ("SIGUSR1", "USR1"),
        ("12", "USR2"),
        ("HUP", "HUP"),
        ("2", "INT"),
    ] {
        b.ok("kill", &[sent])?;
        eventually(&format!("signal {sent}"), || {
            Ok(fs::read_to_string(b.rootfs().join("got"))
                .unwrap_or_default()
                .lines()
                .any(|l| l == name))
        })?;
    }
    Ok(())
}

fn delete_running(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    b.ok("start", &[])?;
    b.fails("delete", &[])?;
    ensure!(b.state()?["status"] == "running");
    Ok(())
}

fn delete_stopped(r: &Runtime) -> Result<()> {
    let b = r.bundle("true")?;
    b.create()?;
    b.start_to_end()?;
    b.ok("delete", &[])?;
    b.fails("state", &[])
}

fn delete_cgroups(r: &Runtime) -> Result<()> {
    let b = r.bundle("sleep 100")?;
    b.create()?;
    let path = format!("magikrun-conformance/{}", b.id);
    ensure!(!cgroups_named(&path)?.is_empty(), "there was no cgroup");
    b.start_to_end_by_kill()?;
    b.ok("delete", &[])?;
    let left = cgroups_named(&path)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

fn unknown_property(r: &Runtime) -> Result<()> {
    let out = r.run("echo ran", |c| {
        c["unknownProperty"] = json!({"a": [1]});
        c["process"]["alsoUnknown"] = json!(true);
    })?;
    ensure!(out == "ran\n", "{out:?}");
    Ok(())
}
