//! Sandboxes: namespaces, network, sysctls, their end.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use magikrun_tests::dropin::{Check, eventually};

use magikrun_test_cri::api::{self, namespace, sandbox, state};

use crate::node::{HANDLER, Node, Pod, SLEEPER};

/// A namespace of a process as the kernel names it.
fn namespace_of(pid: u64, kind: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{kind}"))?
        .display()
        .to_string())
}

/// A pod whose containers get these namespaces.
fn pod_in(node: &Node, options: api::NamespaceOption) -> Result<Pod<'_>> {
    node.pod_with(|p| {
        let linux = p.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options = Some(options);
        if options_are_of_the_node(linux) {
            p.hostname.clear();
        }
    })
}

fn options_are_of_the_node(linux: &api::LinuxPodSandboxConfig) -> bool {
    let context = linux.security_context.clone().unwrap_or_default();
    context.namespace_options.unwrap_or_default().network == namespace::NODE
}

pub(crate) const CHECKS: &[Check<Node>] = &[
    ("a sandbox is ready, with an address and its handler", |n| {
        let pod = n.pod()?;
        let status = pod.status()?;
        ensure!(
            status.state == sandbox::READY && status.runtime_handler == HANDLER,
            "{status:?}"
        );
        let ip = pod.ip()?;
        ensure!(ip.starts_with("10.88."), "{ip}");
        let said = pod.run("hostname; ip -4 addr show eth0", |_| {})?;
        ensure!(said.starts_with("c") && said.contains(&ip), "{said}");
        Ok(())
    }),
    ("an unknown handler is an error that names it", |n| {
        let request = api::RunPodSandboxRequest {
            config: Some(api::PodSandboxConfig {
                metadata: Some(api::PodSandboxMetadata {
                    name: n.ctr.name(),
                    uid: "u".to_owned(),
                    namespace: "default".to_owned(),
                }),
                ..Default::default()
            }),
            runtime_handler: "nosuch".to_owned(),
        };
        let error = n.call(request).err().context("it ran")?;
        ensure!(format!("{error:#}").contains("nosuch"), "{error:#}");
        Ok(())
    }),
    (
        "containers share the sandbox's network, ipc and uts, not its pids",
        |n| {
            let pod = n.pod()?;
            let (one, two) = (pod.start(SLEEPER, |_| {})?, pod.start(SLEEPER, |_| {})?);
            let (sandbox, one, two) = (pod.pid()?, one.pid()?, two.pid()?);
            for (kind, shared) in [
                ("net", true),
                ("ipc", true),
                ("uts", true),
                ("pid", false),
                ("mnt", false),
            ] {
                let theirs = [sandbox, one, two].map(|pid| namespace_of(pid, kind));
                let [sandbox, one, two] = theirs;
                let (sandbox, one, two) = (sandbox?, one?, two?);
                let all = sandbox == one && one == two;
                let none = sandbox != one && one != two && two != sandbox;
                ensure!(if shared { all } else { none }, "{kind}: {sandbox} {one} {two}");
            }
            Ok(())
        },
    ),
    ("a pod's shared memory is one", |n| {
        let pod = n.pod()?;
        let writer = pod.start(&format!("echo shared > /dev/shm/f; {SLEEPER}"), |_| {})?;
        eventually("written", || {
            writer.exec("cat /dev/shm/f").is_ok_and(|t| t == "shared")
        })?;
        pod.says("cat /dev/shm/f", |_| {}, "shared")
    }),
    ("a pod's shared process namespace", |n| {
        let pod = pod_in(
            n,
            api::NamespaceOption {
                pid: namespace::POD,
                ..Default::default()
            },
        )?;
        let other = pod.start("exec sleep 4321", |_| {})?;
        let said = pod.run("cat /proc/1/cmdline | tr '\\0' ' '; ps", |_| {})?;
        ensure!(
            said.starts_with("sh -c trap") && said.contains("sleep 4321"),
            "{said}"
        );
        // The sandbox's process reaps; a container's own end is still seen.
        other.stop(0)?;
        ensure!(other.status()?.exit_code == 137, "{:?}", other.status());
        Ok(())
    }),
    ("a container in another one's process namespace", |n| {
        let pod = n.pod()?;
        let target = pod.start("exec sleep 4321", |_| {})?;
        let said = pod.run("ps", |c| {
            let context = c
                .linux
                .get_or_insert_default()
                .security_context
                .get_or_insert_default();
            context.namespace_options = Some(api::NamespaceOption {
                pid: namespace::TARGET,
                target_id: target.id.clone(),
                ..Default::default()
            });
        })?;
        ensure!(said.contains("1 root") && said.contains("sleep 4321"), "{said}");
        Ok(())
    }),
    ("the node's namespaces", |n| {
        let pod = pod_in(
            n,
            api::NamespaceOption {
                network: namespace::NODE,
                pid: namespace::NODE,
                ipc: namespace::NODE,
                ..Default::default()
            },
        )?;
        let container = pod.start(SLEEPER, |_| {})?;
        let (ours, theirs) = (u64::from(std::process::id()), container.pid()?);
        for kind in ["net", "pid", "ipc"] {
            ensure!(namespace_of(ours, kind)? == namespace_of(theirs, kind)?, "{kind}");
        }
        ensure!(namespace_of(ours, "mnt")? != namespace_of(theirs, "mnt")?, "mnt");
        Ok(())
    }),
    ("pods reach each other by address", |n| {
        let (server, client) = (n.pod()?, n.pod()?);
        let listening = server.start("nc -ll -p 8080 -e echo hello", |_| {})?;
        eventually("it listens", || {
            listening.exec("netstat -ltn | grep 8080").is_ok()
        })?;
        client.says(&format!("nc {} 8080 </dev/null", server.ip()?), |_| {}, "hello")
    }),
    ("sysctls of a pod", |n| {
        let pod = n.pod_with(|p| {
            let sysctls = [
                ("net.ipv4.ip_unprivileged_port_start", "77"),
                ("kernel.shm_rmid_forced", "1"),
            ];
            p.linux.get_or_insert_default().sysctls = sysctls
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into_iter()
                .collect();
        })?;
        let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
        pod.says(script, |_| {}, "77\n1")
    }),
    ("the cgroups of a pod are where the kubelet wants them", |n| {
        let pod =
            n.pod_with(|p| p.linux.get_or_insert_default().cgroup_parent = "/kubepods/pod-here".to_owned())?;
        let container = pod.start(SLEEPER, |_| {})?;
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()?))?;
        let place = format!("/kubepods/pod-here/{}", container.id);
        ensure!(cgroups.lines().any(|l| l.ends_with(&place)), "{cgroups}");
        Ok(())
    }),
    (
        "stopping a sandbox stops its containers and takes its network",
        |n| {
            let pod = n.pod()?;
            let container = pod.start("exec sleep 1000", |_| {})?;
            let sandbox = pod.pid()?;
            pod.stop()?;
            ensure!(pod.status()?.state == sandbox::NOT_READY, "{:?}", pod.status());
            ensure!(
                container.status()?.state == state::EXITED,
                "{:?}",
                container.status()
            );
            ensure!(
                !Path::new(&format!("/proc/{sandbox}")).exists(),
                "its process lives"
            );
            pod.stop().context("a second time")?;
            pod.remove()?;
            pod.remove().context("a second time")?;
            ensure!(pod.status().is_err(), "it is still there");
            Ok(())
        },
    ),
    ("a removed sandbox leaves no cgroup of its own", |n| {
        let pod =
            n.pod_with(|p| p.linux.get_or_insert_default().cgroup_parent = "/kubepods/pod-gone".to_owned())?;
        let container = pod.start(SLEEPER, |_| {})?;
        let ids = [pod.id.clone(), container.id.clone()];
        let left = || -> Result<Vec<String>> {
            let all = magikrun_test_world::all_cgroups()?;
            Ok(all
                .into_iter()
                .filter(|c| ids.iter().any(|id| c.ends_with(id)))
                .collect())
        };
        ensure!(!left()?.is_empty(), "no cgroups at all");
        pod.stop()?;
        pod.remove()?;
        ensure!(left()?.is_empty(), "{:?}", left());
        Ok(())
    }),
];
