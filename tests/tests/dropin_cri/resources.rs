//! Limits, their change, what is used of them, and events.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use magikrun_test_world::cgroup_file;
use magikrun_tests::dropin::{Check, eventually};

use magikrun_test_cri::api::{self, LinuxContainerResources};

use crate::node::{Container, Node, SLEEPER};

const MIB: i64 = 1 << 20;

fn limited(resources: LinuxContainerResources) -> impl FnOnce(&mut api::ContainerConfig) {
    |c| c.linux.get_or_insert_default().resources = Some(resources)
}

fn memory(bytes: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        ..Default::default()
    }
}

/// The limit that the kernel enforces, in bytes.
fn memory_limit(container: &Container<'_>) -> Result<String> {
    cgroup_file(container.pid()?, "memory", "memory.limit_in_bytes", "memory.max")
}

/// Quota and period in microseconds.
fn cpu_quota(container: &Container<'_>) -> Result<String> {
    let pid = container.pid()?;
    // v2 has both in one file.
    let quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    if quota.contains(' ') {
        return Ok(quota);
    }
    Ok(format!(
        "{quota} {}",
        cgroup_file(pid, "cpu", "cpu.cfs_period_us", "cpu.max")?
    ))
}

pub(crate) const CHECKS: &[Check<Node>] = &[
    (
        "limits of memory and processor time, and the badness for the OOM killer",
        |n| {
            let pod = n.pod()?;
            let container = pod.start(
                SLEEPER,
                limited(LinuxContainerResources {
                    cpu_period: 50_000,
                    cpu_quota: 25_000,
                    cpu_shares: 512,
                    cpuset_cpus: "0".to_owned(),
                    cpuset_mems: "0".to_owned(),
                    oom_score_adj: 500,
                    ..memory(64 * MIB)
                }),
            )?;
            ensure!(
                memory_limit(&container)? == "67108864",
                "{:?}",
                memory_limit(&container)
            );
            ensure!(
                cpu_quota(&container)? == "25000 50000",
                "{:?}",
                cpu_quota(&container)
            );
            let shares = cgroup_file(container.pid()?, "cpu", "cpu.shares", "cpu.weight")?;
            // 512 of 2 to 262144 is 20 of 1 to 10000.
            ensure!(["512", "20"].contains(&shares.as_str()), "{shares}");
            let cpus = cgroup_file(container.pid()?, "cpuset", "cpuset.cpus", "cpuset.cpus")?;
            ensure!(cpus == "0", "{cpus}");
            ensure!(container.exec("cat /proc/1/oom_score_adj")? == "500");
            Ok(())
        },
    ),
    (
        "a pod whose parent is a slice, where systemd makes no cgroups",
        |n| {
            // As of a kubelet with systemd's driver: containerd then gives `SLICE:cri-containerd:ID`, whoever makes the cgroup.
            let slice = format!("kubepods-{}.slice", n.ctr.name());
            let pod = n.pod_with(|p| {
                p.linux.get_or_insert_default().cgroup_parent = format!("/kubepods.slice/{slice}");
            })?;
            let container = pod.start(SLEEPER, limited(memory(64 * MIB)))?;
            for (id, pid) in [(&pod.id, pod.pid()?), (&container.id, container.pid()?)] {
                let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
                let name = format!("/{slice}:cri-containerd:{id}");
                ensure!(cgroups.lines().any(|l| l.ends_with(&name)), "{name}: {cgroups}");
            }
            ensure!(
                memory_limit(&container)? == "67108864",
                "{:?}",
                memory_limit(&container)
            );
            ensure!(container.exec("echo inside")? == "inside");
            n.call(api::UpdateContainerResourcesRequest {
                container_id: container.id.clone(),
                linux: Some(memory(96 * MIB)),
            })?;
            ensure!(
                memory_limit(&container)? == "100663296",
                "{:?}",
                memory_limit(&container)
            );
            let statistics = n.call(api::ContainerStatsRequest {
                container_id: container.id.clone(),
            })?;
            let memory = statistics.stats.and_then(|s| s.memory).unwrap_or_default();
            ensure!(memory.working_set_bytes.is_some(), "{memory:?}");
            container.catching(rustix::process::Signal::TERM)?;
            container.stop(20)?;
            ensure!(container.status()?.exit_code == 3, "{:?}", container.status());
            container.remove()
        },
    ),
    ("the limits of a running container are changed", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, limited(memory(64 * MIB)))?;
        n.call(api::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 30_000,
                ..memory(96 * MIB)
            }),
        })?;
        ensure!(
            memory_limit(&container)? == "100663296",
            "{:?}",
            memory_limit(&container)
        );
        ensure!(
            cpu_quota(&container)? == "30000 100000",
            "{:?}",
            cpu_quota(&container)
        );
        container.exec("true").map(drop)
    }),
    ("the limits of a created container are changed", |n| {
        let pod = n.pod()?;
        let container = pod.create(SLEEPER, limited(memory(64 * MIB)))?;
        n.call(api::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(memory(32 * MIB)),
        })?;
        container.start()?;
        ensure!(
            memory_limit(&container)? == "33554432",
            "{:?}",
            memory_limit(&container)
        );
        Ok(())
    }),
    ("a container that is out of memory says so", |n| {
        let pod = n.pod()?;
        let container = pod.start(
            "head -c 100000000 /dev/zero | tail | true; x=$(yes); true",
            limited(memory(8 * MIB)),
        )?;
        ensure!(container.ended()?.exit_code == 137, "{:?}", container.status());
        // containerd hears of that and of the end in either order.
        eventually("the reason", || {
            container.status().is_ok_and(|s| s.reason == "OOMKilled")
        })
    }),
    ("statistics of one container and of all of a pod", |n| {
        let pod = n.pod()?;
        let busy = pod.start(
            "x=$(head -c 2000000 /dev/zero | tr '\\0' x); echo ready; while :; do :; done",
            |_| {},
        )?;
        let idle = pod.start(SLEEPER, |_| {})?;
        let used = |stats: &api::ContainerStats| {
            let cpu = stats.cpu.clone().unwrap_or_default().usage_core_nano_seconds;
            let memory = stats.memory.clone().unwrap_or_default().working_set_bytes;
            (cpu.unwrap_or_default().value, memory.unwrap_or_default().value)
        };
        let one = || -> Result<_> {
            let request = api::ContainerStatsRequest {
                container_id: busy.id.clone(),
            };
            Ok(used(&n.call(request)?.stats.context("no statistics")?))
        };
        eventually("it works", || busy.stdout().is_ok_and(|t| t.contains("ready")))?;
        let first = one()?;
        ensure!(first.0 > 0 && first.1 > 1_000_000, "{first:?}");
        eventually("it uses more time", || one().is_ok_and(|s| s.0 > first.0))?;
        let filter = api::ContainerStatsFilter {
            pod_sandbox_id: pod.id.clone(),
            ..Default::default()
        };
        let all = n
            .call(api::ListContainerStatsRequest { filter: Some(filter) })?
            .stats;
        let mut ids: Vec<_> = all
            .iter()
            .map(|s| s.attributes.clone().unwrap_or_default().id)
            .collect();
        let mut expected = [busy.id.clone(), idle.id.clone()];
        ids.sort();
        expected.sort();
        ensure!(ids == expected, "{all:?}");
        Ok(())
    }),
    ("events of a container's life", |n| {
        let mut watching = n
            .ctr
            .command("events")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = watching.stdout.take().context("stdout")?;
        let seen = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let sink = seen.clone();
        let reading = std::thread::spawn(move || {
            use std::io::BufRead as _;
            for line in std::io::BufReader::new(lines).lines().map_while(Result::ok) {
                let mut seen = sink.lock().expect("nobody panics");
                seen.push_str(&line);
                seen.push('\n');
            }
        });
        let pod = n.pod()?;
        // The client is there once it shows the events of anybody.
        eventually("it watches", || {
            let _ = pod.start("true", |_| {}).and_then(|c| c.ended());
            !seen.lock().expect("nobody panics").is_empty()
        })?;
        let container = pod.start(SLEEPER, |_| {})?;
        container.exec("true")?;
        container.stop(20)?;
        let all = [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/delete",
        ];
        let complete = eventually("every event", || {
            let seen = seen.lock().expect("nobody panics");
            all.iter().all(|topic| {
                seen.lines()
                    .any(|l| l.contains(topic) && l.contains(&container.id))
            })
        });
        // To the client's guard, which passes it on.
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&watching),
            rustix::process::Signal::TERM,
        )?;
        watching.wait()?;
        reading.join().expect("no panic");
        complete.with_context(|| seen.lock().expect("nobody panics").clone())
    }),
];
