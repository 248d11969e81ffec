//! Containers: their life, logs, exec, mounts, devices.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use magikrun_tests::dropin::{Check, eventually};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::Signal,
};

use magikrun_test_cri::api::{self, propagation, state};

use crate::node::{Node, SLEEPER};

fn mount(host: &str, container: &str) -> api::Mount {
    api::Mount {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        ..Default::default()
    }
}

/// A mount point that passes mounts on, as a node's root is on a machine with systemd.
fn shared_directory(node: &Node) -> Result<String> {
    let dir = node.ctr.directory()?;
    magikrun_test_world::mount_tmpfs(Path::new(&dir), 1 << 20)?;
    mount_change(&dir, MountPropagationFlags::SHARED)?;
    Ok(dir)
}

pub(crate) const CHECKS: &[Check<Node>] = &[
    (
        "a container is created, then running, then exited with its code",
        |n| {
            let pod = n.pod()?;
            let container = pod.create("read a; exit 7", |c| c.stdin = true)?;
            ensure!(
                container.status()?.state == state::CREATED,
                "{:?}",
                container.status()
            );
            container.start()?;
            let running = container.status()?;
            ensure!(
                running.state == state::RUNNING && running.started_at > 0,
                "{running:?}"
            );
            container.stop(0)?;
            let ended = pod.start("exit 7", |_| {})?.ended()?;
            ensure!(ended.exit_code == 7 && ended.reason == "Error", "{ended:?}");
            ensure!(
                ended.created_at > 0 && ended.created_at <= ended.finished_at,
                "{ended:?}"
            );
            let ended = pod.start("true", |_| {})?.ended()?;
            ensure!(ended.exit_code == 0 && ended.reason == "Completed", "{ended:?}");
            Ok(())
        },
    ),
    ("a missing program is an error that names it", |n| {
        let pod = n.pod()?;
        let container = pod.create("", |c| c.command = vec!["/nosuch".to_owned()])?;
        let error = container.start().err().context("it ran")?;
        ensure!(format!("{error:#}").contains("nosuch"), "{error:#}");
        let status = container.status()?;
        ensure!(
            status.reason == "StartError" && status.message.contains("nosuch"),
            "{status:?}"
        );
        container.remove()
    }),
    ("arguments, environment and directory", |n| {
        let script = "echo $0 $1; echo $A; pwd";
        n.pod()?.says(
            script,
            |c| {
                c.args = vec!["zero".to_owned(), "one".to_owned()];
                c.working_dir = "/srv".to_owned();
                c.envs = vec![api::KeyValue {
                    key: "A".to_owned(),
                    value: "b c".to_owned(),
                }];
            },
            "zero one\nb c\n/srv",
        )
    }),
    (
        "the log tells streams, whole lines and parts of lines apart",
        |n| {
            let pod = n.pod()?;
            let script = "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end";
            let container = pod.start(script, |_| {})?;
            container.ended()?;
            let lines = container.lines()?;
            ensure!(
                lines
                    .iter()
                    .any(|l| l.stream == "stderr" && l.full && l.text == "two"),
                "{lines:?}"
            );
            ensure!(
                lines.iter().any(|l| l.stream == "stdout" && !l.full),
                "no part of a line"
            );
            let expected = format!("one\n{}\nend", "x".repeat(20000));
            ensure!(
                container.stdout()?.trim_end() == expected,
                "{:?}",
                container.stdout()
            );
            Ok(())
        },
    ),
    ("a rotated log is opened again", |n| {
        let pod = n.pod()?;
        let container = pod.start("i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done", |_| {})?;
        eventually("it writes", || container.lines().is_ok_and(|l| !l.is_empty()))?;
        fs::rename(&container.log, container.log.with_extension("1"))?;
        n.call(api::ReopenContainerLogRequest {
            container_id: container.id.clone(),
        })?;
        eventually("it writes to the new one", || {
            container.lines().is_ok_and(|l| !l.is_empty())
        })
    }),
    ("exec tells its exit code and both streams", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |c| {
            c.working_dir = "/srv".to_owned();
        })?;
        let done = container.exec_within(20, &["sh", "-c", "pwd; echo err >&2; exit 5"])?;
        let said = (done.exit_code, done.stdout.as_slice(), done.stderr.as_slice());
        ensure!(said == (5, b"/srv\n".as_slice(), b"err\n".as_slice()), "{said:?}");
        Ok(())
    }),
    ("exec of a missing program fails and the container lives", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |_| {})?;
        let error = container.exec_within(20, &["/nosuch"]).err().context("it ran")?;
        ensure!(format!("{error:#}").contains("nosuch"), "{error:#}");
        container.exec("true").map(drop)
    }),
    ("exec that takes too long is killed", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |_| {})?;
        let error = container
            .exec_within(1, &["sleep", "4321"])
            .err()
            .context("it ended")?;
        ensure!(format!("{error:#}").contains("DeadlineExceeded"), "{error:#}");
        let gone = || container.exec("ps").is_ok_and(|ps| !ps.contains("sleep 4321"));
        eventually("the program is gone", gone)
    }),
    ("stop sends SIGTERM", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |_| {})?;
        container.catching(Signal::TERM)?;
        container.stop(20)?;
        ensure!(container.status()?.exit_code == 3, "{:?}", container.status());
        container.stop(20).context("a second time")
    }),
    (
        "a container that ends by itself in the moment it is stopped",
        |n| {
            let pod = n.pod()?;
            for nap in ["0", "0.005", "0.01", "0.02", "0.03", "0.05", "0.08"] {
                let container = pod.start(&format!("sleep {nap}"), |_| {})?;
                container.stop(20).with_context(|| format!("after {nap} s"))?;
                ensure!(container.ended()?.state == state::EXITED);
                container.remove()?;
            }
            Ok(())
        },
    ),
    ("after the grace period stop sends SIGKILL", |n| {
        let pod = n.pod()?;
        let container = pod.start("exec sleep 1000", |_| {})?;
        container.stop(1)?;
        ensure!(container.status()?.exit_code == 137, "{:?}", container.status());
        Ok(())
    }),
    ("a running container is removed", |n| {
        let pod = n.pod()?;
        let container = pod.start("sleep 1000 & exec sleep 1000", |_| {})?;
        let pid = container.pid()?;
        container.remove()?;
        ensure!(container.status().is_err(), "it is still there");
        ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "its process lives");
        container.remove().context("a second time")
    }),
    ("the containers of a pod are listed", |n| {
        let pod = n.pod()?;
        let (one, two) = (pod.start(SLEEPER, |_| {})?, pod.start("true", |_| {})?);
        two.ended()?;
        let filter = api::ContainerFilter {
            pod_sandbox_id: pod.id.clone(),
            ..Default::default()
        };
        let list = n
            .call(api::ListContainersRequest { filter: Some(filter) })?
            .containers;
        let state = |id: &str| list.iter().find(|c| c.id == id).map(|c| c.state);
        ensure!(
            list.len() == 2
                && state(&one.id) == Some(state::RUNNING)
                && state(&two.id) == Some(state::EXITED),
            "{list:?}"
        );
        Ok(())
    }),
    ("volumes, read-only or not", |n| {
        let dir = n.ctr.directory()?;
        fs::write(format!("{dir}/f"), "mounted\n")?;
        let script = "cat /ro/f; echo written > /rw/g; touch /ro/h 2>/dev/null || echo refused";
        n.pod()?.says(
            script,
            |c| {
                let read_only = api::Mount {
                    readonly: true,
                    ..mount(&dir, "/ro")
                };
                c.mounts = vec![read_only, mount(&dir, "/rw")];
            },
            "mounted\nrefused",
        )?;
        ensure!(fs::read_to_string(format!("{dir}/g"))? == "written\n");
        Ok(())
    }),
    ("a single file as volume", |n| {
        let dir = n.ctr.directory()?;
        fs::write(format!("{dir}/f"), "mounted\n")?;
        n.pod()?.says(
            "cat /etc/plain",
            |c| c.mounts = vec![mount(&format!("{dir}/f"), "/etc/plain")],
            "mounted",
        )
    }),
    ("mounts of the host arrive in a container", |n| {
        let dir = shared_directory(n)?;
        fs::create_dir(format!("{dir}/sub"))?;
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |c| {
            c.mounts = vec![api::Mount {
                propagation: propagation::HOST_TO_CONTAINER,
                ..mount(&dir, "/v")
            }];
        })?;
        magikrun_test_world::mount_tmpfs(Path::new(&format!("{dir}/sub")), 1 << 20)?;
        fs::write(format!("{dir}/sub/f"), "late\n")?;
        let said = container.exec("cat /v/sub/f")?;
        ensure!(said == "late", "{said}");
        Ok(())
    }),
    ("mounts of a container arrive on the host", |n| {
        let dir = shared_directory(n)?;
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |c| {
            c.mounts = vec![api::Mount {
                propagation: propagation::BIDIRECTIONAL,
                ..mount(&dir, "/v")
            }];
            let context = c
                .linux
                .get_or_insert_default()
                .security_context
                .get_or_insert_default();
            context.capabilities = Some(api::Capability {
                add_capabilities: vec!["SYS_ADMIN".to_owned()],
                ..Default::default()
            });
        })?;
        container.exec("mkdir /v/sub && mount -t tmpfs tmpfs /v/sub && echo early > /v/sub/f")?;
        ensure!(fs::read_to_string(format!("{dir}/sub/f"))? == "early\n");
        Ok(())
    }),
    ("a device", |n| {
        n.pod()?.says(
            "head -c 3 /dev/nothing | wc -c; head -c 3 /dev/nuls | wc -c; mknod /dev/mem2 c 1 1 && cat /dev/mem2 2>/dev/null || echo refused",
            |c| {
                let device = |host: &str, container: &str| api::Device {
                    host_path: host.to_owned(),
                    container_path: container.to_owned(),
                    permissions: "rw".to_owned(),
                };
                c.devices = vec![device("/dev/null", "/dev/nothing"), device("/dev/zero", "/dev/nuls")];
            },
            "0\n3\nrefused",
        )
    }),
    ("twenty containers at once", |n| {
        let pod = n.pod()?;
        let pod = &pod;
        std::thread::scope(|scope| {
            let run = |i: i32| move || pod.start(&format!("echo {i}; exit {i}"), |_| {})?.ended();
            let threads: Vec<_> = (0..20).map(|i| (i, scope.spawn(run(i)))).collect();
            for (i, thread) in threads {
                let status = thread.join().expect("no panic")?;
                ensure!(status.exit_code == i, "{i}: {status:?}");
            }
            Ok(())
        })
    }),
];
