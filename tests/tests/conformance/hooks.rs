//! Hooks (config.md, "POSIX-platform Hooks").

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::harness::{Bundle, Check, Runtime, eventually};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "hooks: each kind runs, in the spec's order",
        run: order,
    },
    Check {
        name: "hooks: several of one kind run in their order",
        run: several,
    },
    Check {
        name: "hooks: the state comes on stdin",
        run: state_on_stdin,
    },
    Check {
        name: "hooks: args and env",
        run: args_and_env,
    },
    Check {
        name: "hooks: a failing prestart hook fails create",
        run: |r| failing_early(r, "prestart"),
    },
    Check {
        name: "hooks: a failing createRuntime hook fails create",
        run: |r| failing_early(r, "createRuntime"),
    },
    Check {
        name: "hooks: a failing createContainer hook fails create",
        run: |r| failing_early(r, "createContainer"),
    },
    Check {
        name: "hooks: a failing startContainer hook fails start",
        run: failing_start,
    },
    Check {
        name: "hooks: a failing poststop hook does not keep the container",
        run: failing_poststop,
    },
    Check {
        name: "hooks: a timeout ends a hook",
        run: timeout,
    },
];

/// A hook that runs `script` on the host with the log's path as `$LOG`.
fn hook(b: &Bundle<'_>, script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": [format!("LOG={}", b.dir().join("log").display()), "PATH=/usr/bin:/bin"]})
}

fn log(b: &Bundle<'_>) -> String {
    fs::read_to_string(b.dir().join("log")).unwrap_or_default()
}

fn lifecycle(b: &Bundle<'_>) -> Result<()> {
    b.create()?;
    b.start_to_end()?;
    b.ok("delete", &[])
}

fn order(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("echo program > /program")?;
    let mut hooks = json!({});
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        hooks[kind] = json!([hook(&b, &format!("echo {kind} >> $LOG"))]);
    }
    // These two run in the container's namespaces; startContainer also in its root.
    hooks["createContainer"] = json!([hook(&b, "echo createContainer >> $LOG")]);
    hooks["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo x > /startContainer"]}]);
    b.config["hooks"] = hooks;
    b.create()?;
    ensure!(
        log(&b) == "prestart\ncreateRuntime\ncreateContainer\n",
        "after create: {:?}",
        log(&b)
    );
    b.start_to_end()?;
    ensure!(
        b.rootfs().join("startContainer").exists(),
        "startContainer did not run"
    );
    eventually("poststart", || Ok(log(&b).ends_with("poststart\n")))?;
    b.ok("delete", &[])?;
    ensure!(
        log(&b).ends_with("poststart\npoststop\n"),
        "after delete: {:?}",
        log(&b)
    );
    Ok(())
}

fn several(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("true")?;
    let hooks: Vec<Value> = ["one", "two", "three"]
        .iter()
        .map(|n| hook(&b, &format!("echo {n} >> $LOG")))
        .collect();
    b.config["hooks"] = json!({"prestart": hooks});
    lifecycle(&b)?;
    ensure!(log(&b) == "one\ntwo\nthree\n", "{:?}", log(&b));
    Ok(())
}

fn state_on_stdin(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("true")?;
    b.config["annotations"] = json!({"k": "v"});
    b.config["hooks"] = json!({"prestart": [hook(&b, "cat >> $LOG")]});
    lifecycle(&b)?;
    let state: Value = serde_json::from_str(&log(&b))?;
    ensure!(
        state["id"] == b.id.as_str() && state["pid"].as_i64().is_some_and(|p| p > 0),
        "{state}"
    );
    ensure!(
        state["bundle"] == b.dir().to_str().unwrap() && state["annotations"]["k"] == "v",
        "{state}"
    );
    Ok(())
}

fn args_and_env(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("true")?;
    let mut h = hook(&b, "echo \"$0 $1 $KEY\" >> $LOG");
    h["args"]
        .as_array_mut()
        .expect("args")
        .extend([json!("zero"), json!("a b")]);
    h["env"].as_array_mut().expect("env").push(json!("KEY=value"));
    b.config["hooks"] = json!({"prestart": [h]});
    lifecycle(&b)?;
    ensure!(log(&b) == "zero a b value\n", "{:?}", log(&b));
    Ok(())
}

fn failing_early(r: &Runtime, kind: &str) -> Result<()> {
    let mut b = r.bundle("true")?;
    b.config["hooks"] = json!({ kind: [hook(&b, "exit 3")] });
    ensure!(!b.create_with(&[])?.status.success(), "create succeeded");
    b.fails("state", &[])
}

fn failing_start(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("touch /ran")?;
    b.config["hooks"] = json!({"startContainer": [{"path": "/bin/false", "args": ["false"]}]});
    b.create()?;
    b.op("start", &[])?;
    b.until("stopped")?;
    ensure!(!b.rootfs().join("ran").exists(), "the program ran");
    Ok(())
}

fn failing_poststop(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("true")?;
    b.config["hooks"] = json!({"poststop": [hook(&b, "exit 3"), hook(&b, "echo second >> $LOG")]});
    b.create()?;
    b.start_to_end()?;
    b.op("delete", &[])?;
    b.fails("state", &[])?;
    ensure!(log(&b) == "second\n", "the second hook did not run");
    Ok(())
}

fn timeout(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("true")?;
    let mut h = hook(&b, "sleep 5");
    h["timeout"] = json!(1);
    b.config["hooks"] = json!({"prestart": [h]});
    ensure!(!b.create_with(&[])?.status.success(), "create succeeded");
    Ok(())
}
