//! Pods and `kube play`.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use magikrun_tests::dropin::{Check, Client, eventually};

use crate::support::contains;

pub(crate) const CHECKS: &[Check<Client>] = &[
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
             command: [sh, -c, 'until grep ready /work/f; do sleep 0.1; done; sleep 100']\n    securityContext: {{runAsUser: 33}}\n    \
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
