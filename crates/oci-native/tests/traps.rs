//! What runtimes over youki's libcontainer 0.7 stumbled over: it has to hold for ours, too.

mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use common::{Fixture, can_run, cgroup_dirs, output, read_all};
use magik_oci::{CreateOptions, Error, Exit, OciRuntime, Signal, Status, Stdio};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_run_containers_at_once() {
    if !can_run("many_threads_run_containers_at_once") {
        return;
    }
    let cwd = std::env::current_dir().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            tokio::spawn(async move {
                let f = Fixture::new(&format!("echo {n}"));
                for _ in 0..3 {
                    assert_eq!(f.run().await, (Exit::exited(0), format!("{n}\n")));
                }
                f.assert_nothing_left();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(std::env::current_dir().unwrap(), cwd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_fast_program_is_not_missed() {
    if !can_run("the_end_of_a_fast_program_is_not_missed") {
        return;
    }
    let f = Fixture::new("exit 4");
    for pause in [0, 0, 0, 100] {
        f.start().await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // Any number of times, by any number of callers.
        let (first, second) = tokio::join!(f.runtime.wait(&f.id), f.runtime.wait(&f.id));
        assert_eq!(
            (first.unwrap(), second.unwrap()),
            (Exit::exited(4), Exit::exited(4))
        );
        assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::exited(4));
        f.runtime.delete(&f.id, false).await.unwrap();
    }
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_to_a_paused_container_leaves_it_paused() {
    if !can_run("a_signal_to_a_paused_container_leaves_it_paused") {
        return;
    }
    let f = Fixture::new("trap 'exit 5' TERM; : >/up; while :; do sleep 0.05; done");
    let status = async || f.runtime.state(&f.id).await.unwrap().status;
    f.create(Stdio::default()).await.unwrap();
    // The init of a pid namespace takes no signal it has no handler for; the state must not say otherwise.
    f.runtime.kill(&f.id, Signal::TERM, false).await.unwrap();
    assert_eq!(status().await, Status::Created);
    f.runtime.start(&f.id).await.unwrap();
    while !f.rootfs().join("up").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    f.runtime.pause(&f.id).await.unwrap();
    assert_eq!(status().await, Status::Paused);
    assert!(matches!(
        f.runtime.pause(&f.id).await,
        Err(Error::WrongState {
            status: Status::Paused,
            ..
        })
    ));
    f.runtime.kill(&f.id, Signal::TERM, false).await.unwrap();
    assert_eq!(status().await, Status::Paused);
    f.runtime.resume(&f.id).await.unwrap();
    assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::exited(5));
    f.runtime.delete(&f.id, false).await.unwrap();

    f.start().await;
    f.runtime.pause(&f.id).await.unwrap();
    f.runtime.kill(&f.id, Signal::KILL, false).await.unwrap();
    assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::signalled(9));
    f.runtime.delete(&f.id, false).await.unwrap();

    f.start().await;
    f.runtime.pause(&f.id).await.unwrap();
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signalled_exec_gives_128_and_the_signal() {
    if !can_run("a_signalled_exec_gives_128_and_the_signal") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let (exit, _) = f.exec("kill -9 $$").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    f.runtime.delete(&f.id, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_create_leaves_nothing() {
    if !can_run("a_failed_create_leaves_nothing") {
        return;
    }
    let children = || {
        let mut pids = String::new();
        for task in fs::read_dir("/proc/self/task").unwrap() {
            pids += &fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        }
        pids
    };
    type Edit = fn(&mut serde_json::Value);
    let edits: [(&str, Edit); 4] = [
        ("a mount without source", |c| {
            let mount =
                json!({"destination": "/m", "type": "bind", "source": "/no/such/file", "options": ["bind"]});
            c["mounts"].as_array_mut().unwrap().push(mount);
        }),
        ("no directory", |c| {
            c["process"]["cwd"] = json!("/etc/passwd");
        }),
        ("a hook that fails", |c| {
            c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
        }),
        ("no such namespace", |c| {
            c["linux"]["namespaces"][4]["path"] = json!("/proc/self/ns/no-such");
        }),
    ];
    for (what, edit) in edits {
        let f = Fixture::with("true", edit);
        let error = f.create(Stdio::default()).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Failed {
                    operation: "create",
                    ..
                }
            ),
            "{what}: {error}"
        );
        f.assert_nothing_left();
        assert_eq!(children(), "", "{what}: a process is left");
        assert!(matches!(f.runtime.state(&f.id).await, Err(Error::NotFound(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_cgroup_is_below_our_own_root() {
    if !can_run("the_default_cgroup_is_below_our_own_root") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let pid = f.runtime.state(&f.id).await.unwrap().pid.unwrap();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = format!("{}/{}", common::cgroup_root(&f.root()), f.id);
    let inside = cgroups.lines().filter(|l| l.ends_with(&path)).count();
    assert!(inside >= 1 && inside == f.cgroups().len(), "{cgroups}");
    assert!(cgroup_dirs(&format!(":youki:{}", f.id)).is_empty());
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_container_holds_nothing_of_its_creator() {
    if !can_run("a_created_container_holds_nothing_of_its_creator") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    // A pipe that is inheritable, as a careless library makes them.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let pid = f.create(Stdio::default()).await.unwrap().pid.unwrap();
    drop(writer);
    assert_eq!(
        tokio::task::spawn_blocking(|| read_all(reader)).await.unwrap(),
        ""
    );
    // Left are the exec fifo, the notify socket, libcontainer's channels and its own detached procfs, the anonymous file
    // its errors are collected in, and /dev/null.
    let foreign: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter_map(|fd| Some((fs::read_link(&fd).ok()?.display().to_string(), fd)))
        .filter(|(name, _)| {
            let anonymous = name.starts_with("socket:") || name.starts_with("/memfd:diagnosis");
            !anonymous && !name.ends_with("/exec.fifo") && name != "/dev/null"
        })
        .filter(|(_, fd)| rustix::fs::statfs(fd).unwrap().f_type != 0x9fa0)
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cgroup_that_is_not_the_containers_is_refused_and_spared() {
    if !can_run("a_cgroup_that_is_not_the_containers_is_refused_and_spared") {
        return;
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own: Vec<&str> = own.lines().map(|l| l.splitn(3, ':').nth(2).unwrap()).collect();
    let refused = ["", "/", "..", "/magikrun/../x"].into_iter().chain(own);
    for path in refused {
        let f = Fixture::with("true", |c| c["linux"]["cgroupsPath"] = json!(path));
        let error = f.create(Stdio::default()).await.unwrap_err();
        assert!(
            error.to_string().contains("linux.cgroupsPath"),
            "{path:?}: {error}"
        );
        f.assert_nothing_left();
    }

    // Somebody else's process in the cgroup that is asked for.
    let first = Fixture::new("exec sleep 1000");
    first.start().await;
    let taken = format!("{}/{}", common::cgroup_root(&first.root()), first.id);
    let second = Fixture::with("true", |c| c["linux"]["cgroupsPath"] = json!(taken));
    let error = second.create(Stdio::default()).await.unwrap_err();
    assert!(error.to_string().contains("not this container's"), "{error}");
    second.runtime.delete(&second.id, true).await.unwrap();
    assert_eq!(
        first.runtime.state(&first.id).await.unwrap().status,
        Status::Running
    );
    first.runtime.delete(&first.id, true).await.unwrap();
    first.assert_nothing_left();

    // A caller's own path, as podman's, is taken as it is.
    let path = format!("/magikrun-test-parent-{}/libpod-x", std::process::id());
    let f = Fixture::with("cat /proc/self/cgroup", |c| {
        c["linux"]["cgroupsPath"] = json!(path);
    });
    let (_, text) = f.run().await;
    assert!(text.contains(&path), "{text}");
    assert!(cgroup_dirs(&path).is_empty());
    for dir in cgroup_dirs(Path::new(&path).parent().unwrap().to_str().unwrap()) {
        fs::remove_dir(dir).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_damaged_state_nor_a_reused_pid_misleads() {
    if !can_run("neither_damaged_state_nor_a_reused_pid_misleads") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    assert_eq!(f.runtime.state(&f.id).await.unwrap().status, Status::Running);
    assert_eq!(f.exec("exit 3").await.0, Exit::exited(3));

    // Ours is damaged: said so, and cleaned up by force, processes included.
    let pid = f.runtime.state(&f.id).await.unwrap().pid.unwrap();
    let record = fs::read_to_string(f.container_dir().join("record.json")).unwrap();
    fs::write(f.container_dir().join("record.json"), &record[..record.len() / 2]).unwrap();
    assert!(matches!(f.runtime.state(&f.id).await, Err(Error::Failed { .. })));
    assert_eq!(f.runtime.list().await.unwrap()[0].id, f.id);
    assert!(f.runtime.delete(&f.id, false).await.is_err());
    f.runtime.delete(&f.id, true).await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    f.assert_nothing_left();

    // The recorded pid is another process by now: a stopped container, whose deletion spares that process.
    f.start().await;
    // Start times are in ticks of 10 ms; in reality a pid does not come again within one.
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let file = f.container_dir().join("record.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["init"]["pid"] = json!(other.id());
    fs::write(&file, record.to_string()).unwrap();
    assert_eq!(f.runtime.state(&f.id).await.unwrap().status, Status::Stopped);
    assert!(matches!(
        f.runtime.kill(&f.id, Signal::KILL, false).await,
        Err(Error::WrongState { .. })
    ));
    let fresh = common::runtime(&f.root());
    fresh.delete(&f.id, false).await.unwrap();
    assert!(other.try_wait().unwrap().is_none(), "another process was killed");
    other.kill().unwrap();
    other.wait().unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_needs_no_path_variable() {
    if !can_run("a_program_needs_no_path_variable") {
        return;
    }
    let f = Fixture::with("echo ${PATH-none}", |c| c["process"]["env"] = json!(["A=b"]));
    let (exit, text) = f.run().await;
    assert_eq!((exit.code, text.trim().is_empty()), (0, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_poststop_hook_does_not_stop_delete() {
    if !can_run("a_failing_poststop_hook_does_not_stop_delete") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("state.json");
    let hook = dir.path().join("hook");
    fs::write(&hook, format!("#!/bin/sh\ncat > {}\nexit 1\n", told.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let f = Fixture::with("true", |c| c["hooks"] = json!({"poststop": [{"path": hook}]}));
    assert_eq!(f.run().await.0, Exit::exited(0));
    f.assert_nothing_left();
    let state: serde_json::Value = serde_json::from_slice(&fs::read(told).unwrap()).unwrap();
    assert_eq!(
        (state["status"].as_str(), state["id"].as_str()),
        (Some("stopped"), Some(f.id.as_str()))
    );
    assert_eq!(state["bundle"].as_str(), f.bundle().to_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_namespace_needs_no_systemd() {
    if !can_run("a_user_namespace_needs_no_systemd") {
        return;
    }
    let f = Fixture::with("cat /proc/self/uid_map", |c| {
        c["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        // Relative: libcontainer would take it for systemd's on cgroup v2.
        c["linux"]["cgroupsPath"] = json!(format!("magikrun-test-user-{}", std::process::id()));
    });
    // The user of the namespace must reach the bundle.
    fs::set_permissions(f.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (stdio, out) = output();
    f.runtime
        .create(&f.id, &f.bundle(), stdio, CreateOptions::default())
        .await
        .unwrap();
    f.runtime.start(&f.id).await.unwrap();
    assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::exited(0));
    assert_eq!(
        read_all(out).split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    f.runtime.delete(&f.id, false).await.unwrap();
    f.assert_nothing_left();
}
