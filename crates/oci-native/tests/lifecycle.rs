//! A container's life, with real containers.

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use common::{Fixture, can_run};
use magik_oci::{CreateOptions, Error, Exit, OciRuntime, Signal, Status, Stdio};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_created_started_waited_for_and_deleted() {
    if !can_run("a_container_is_created_started_waited_for_and_deleted") {
        return;
    }
    let f = Fixture::new("echo $GREETING; echo oops >&2; exit 7");
    let (exit, text) = f.run().await;
    assert_eq!((exit, text.as_str()), (Exit::exited(7), "hello\noops\n"));
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_state_follows_its_life() {
    if !can_run("its_state_follows_its_life") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    let status = async || f.runtime.state(&f.id).await.map(|s| s.status);
    assert!(matches!(status().await, Err(Error::NotFound(_))));
    let created = f.create(Stdio::default()).await.unwrap();
    assert_eq!(
        (created.status, status().await.unwrap()),
        (Status::Created, Status::Created)
    );
    assert!(matches!(
        f.create(Stdio::default()).await,
        Err(Error::AlreadyExists(_))
    ));
    f.runtime.start(&f.id).await.unwrap();
    assert_eq!(status().await.unwrap(), Status::Running);
    let again = f.runtime.start(&f.id).await.unwrap_err();
    assert!(
        matches!(
            again,
            Error::WrongState {
                status: Status::Running,
                ..
            }
        ),
        "{again}"
    );
    let refused = f.runtime.delete(&f.id, false).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::WrongState {
                operation: "delete",
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(f.runtime.list().await.unwrap().len(), 1);
    assert_eq!(f.runtime.processes(&f.id).await.unwrap(), [created.pid.unwrap()]);
    f.runtime.kill(&f.id, Signal::KILL, false).await.unwrap();
    assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::signalled(9));
    assert_eq!(status().await.unwrap(), Status::Stopped);
    assert_eq!(f.runtime.state(&f.id).await.unwrap().pid, None);
    f.runtime.delete(&f.id, false).await.unwrap();
    assert!(matches!(
        f.runtime.delete(&f.id, false).await,
        Err(Error::NotFound(_))
    ));
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_runs_in_the_container_and_gives_its_exit_code() {
    if !can_run("exec_runs_in_the_container_and_gives_its_exit_code") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let (exit, text) = f.exec("echo $$ in; exit 3").await;
    assert_eq!(exit, Exit::exited(3));
    assert!(text.ends_with(" in\n"), "{text:?}");
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_be_executed_is_named() {
    if !can_run("a_program_that_cannot_be_executed_is_named") {
        return;
    }
    // Seen before the container waits for `start`.
    for (program, reason) in [
        ("nosuch", "not found in $PATH"),
        ("/nosuch", "no such file"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "is a directory"),
    ] {
        let f = Fixture::with("", |c| c["process"]["args"] = json!([program, "x"]));
        let error = f.create(Stdio::default()).await.unwrap_err();
        let Error::CannotExecute {
            program: named,
            reason: why,
            ..
        } = &error
        else {
            panic!("{program}: {error}")
        };
        assert!(named == program && why.contains(reason), "{error}");
        f.assert_nothing_left();
    }
    // Seen by the kernel only.
    for (content, reason) in [
        ("#!/nosuch\n", "interpreter"),
        ("no program", "exec format error"),
        ("", "exec format error"),
    ] {
        let f = Fixture::with("", |c| c["process"]["args"] = json!(["/bin/odd"]));
        fs::write(f.rootfs().join("bin/odd"), content).unwrap();
        fs::set_permissions(f.rootfs().join("bin/odd"), fs::Permissions::from_mode(0o755)).unwrap();
        f.create(Stdio::default()).await.unwrap();
        let error = f.runtime.start(&f.id).await.unwrap_err();
        let Error::CannotExecute {
            program, reason: why, ..
        } = &error
        else {
            panic!("{content:?}: {error}")
        };
        assert!(program == "/bin/odd" && why.contains(reason), "{error}");
        f.runtime.wait(&f.id).await.unwrap();
        assert_eq!(f.runtime.state(&f.id).await.unwrap().status, Status::Stopped);
        f.runtime.delete(&f.id, false).await.unwrap();
        f.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_killed_for_memory_says_so() {
    if !can_run("a_container_killed_for_memory_says_so") {
        return;
    }
    let f = Fixture::with("", |c| {
        let limit = 16 << 20;
        c["linux"]["resources"] = json!({"memory": {"limit": limit, "swap": limit}, "pids": {"limit": 20}});
        // /dev is a tmpfs: what is written there is memory of the container's.
        c["process"]["args"] = json!(["dd", "if=/dev/zero", "of=/dev/memory", "bs=1M", "count=64"]);
    });
    f.create(Stdio::default()).await.unwrap();
    let stats = f.runtime.stats(&f.id).await.unwrap();
    assert_eq!(
        (stats.memory.limit, stats.pids.limit, stats.pids.current),
        (Some(16 << 20), Some(20), 1)
    );
    assert!(stats.memory.usage > 0 && stats.cpu.usage_ns > 0, "{stats:?}");
    f.runtime.start(&f.id).await.unwrap();
    let exit = f.runtime.wait(&f.id).await.unwrap();
    assert_eq!((exit.signal, exit.oom_killed), (Some(9), true));
    f.runtime.delete(&f.id, false).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_can_be_changed() {
    if !can_run("limits_can_be_changed") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let resources =
        serde_json::from_value(json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 30}})).unwrap();
    f.runtime.update(&f.id, &resources).await.unwrap();
    let stats = f.runtime.stats(&f.id).await.unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(32 << 20), Some(30)));
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pipe_ends_a_program() {
    if !can_run("a_broken_pipe_ends_a_program") {
        return;
    }
    let f = Fixture::new("yes | head -n 1");
    let (exit, text) = f.run().await;
    assert_eq!((exit, text.as_str()), (Exit::exited(0), "y\n"));
    let ignored = Fixture::new("grep SigIgn /proc/self/status; grep SigBlk /proc/self/status");
    assert_eq!(
        ignored.run().await.1,
        "SigIgn:\t0000000000000000\nSigBlk:\t0000000000000000\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_working_directory_is_made_inside_the_root() {
    if !can_run("a_missing_working_directory_is_made_inside_the_root") {
        return;
    }
    let f = Fixture::with("pwd", |c| c["process"]["cwd"] = json!("/link/new/dir"));
    let outside = f.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    // Inside, the link's target does not exist; outside, it does.
    std::os::unix::fs::symlink(&outside, f.rootfs().join("link")).unwrap();
    assert!(f.create(Stdio::default()).await.is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fs::remove_file(f.rootfs().join("link")).unwrap();
    assert_eq!(f.run().await.1, "/link/new/dir\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preserved_descriptors_pass_through_a_reexecuted_worker() {
    if !can_run("preserved_descriptors_pass_through_a_reexecuted_worker") {
        return;
    }
    let kept = tempfile::NamedTempFile::new().unwrap();
    fs::write(kept.path(), "kept").unwrap();
    let file = fs::File::open(kept.path()).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    // Whatever this process has below that number goes along: it is vouched for.
    let f = Fixture::new(&format!("cat <&{number}"));
    let (stdio, out) = common::output();
    let mut options = CreateOptions::default();
    options.preserve_fds = u32::try_from(number).unwrap() - 2;
    f.runtime
        .create(&f.id, &f.bundle(), stdio, options)
        .await
        .unwrap();
    f.runtime.start(&f.id).await.unwrap();
    f.runtime.wait(&f.id).await.unwrap();
    f.runtime.delete(&f.id, false).await.unwrap();
    assert_eq!(common::read_all(out), "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_handed_over() {
    if !can_run("a_terminal_is_handed_over") {
        return;
    }
    let script = "stty -echo; read line; echo got $line; tty; exit 6";
    let f = Fixture::with(script, |c| c["process"]["terminal"] = json!(true));
    let error = f.create(Stdio::default()).await.unwrap_err();
    assert!(error.to_string().contains("process.terminal"), "{error}");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut options = CreateOptions::default();
    options.console = Some(theirs.into());
    f.runtime
        .create(&f.id, &f.bundle(), Stdio::default(), options)
        .await
        .unwrap();
    let master = common::receive_fd(&ours);
    f.runtime.start(&f.id).await.unwrap();
    rustix::io::write(&master, b"hi\n").unwrap();
    let text = tokio::task::spawn_blocking(move || common::read_terminal(&master))
        .await
        .unwrap();
    assert!(text.contains("got hi") && text.contains("/dev/"), "{text:?}");
    assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::exited(6));
    f.runtime.delete(&f.id, false).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_create_leaves_nothing() {
    if !can_run("a_dropped_create_leaves_nothing") {
        return;
    }
    for delay in [0, 1, 3, 6, 12] {
        let f = Fixture::new("true");
        let create = f.create(Stdio::default());
        if tokio::time::timeout(std::time::Duration::from_millis(delay), create)
            .await
            .is_ok()
        {
            f.runtime.delete(&f.id, true).await.unwrap();
        }
        f.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_commands_on_one_container_do_not_mix() {
    if !can_run("racing_commands_on_one_container_do_not_mix") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    for _ in 0..3 {
        let (a, b) = tokio::join!(f.create(Stdio::default()), f.create(Stdio::default()));
        assert!(a.is_ok() != b.is_ok(), "one creates: {a:?} {b:?}");
        assert!(matches!(a.and(b), Err(Error::AlreadyExists(_))));
        let (a, b) = tokio::join!(f.runtime.start(&f.id), f.runtime.start(&f.id));
        assert!(a.is_ok() != b.is_ok(), "one starts: {a:?} {b:?}");
        let (a, b, c) = tokio::join!(f.exec("exit 3"), f.exec("exit 4"), f.exec("exit 5"));
        assert_eq!((a.0.code, b.0.code, c.0.code), (3, 4, 5));
        let (a, b) = tokio::join!(f.runtime.delete(&f.id, true), f.runtime.delete(&f.id, true));
        a.and(b).unwrap();
        f.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_makes_no_sense_is_refused_naming_the_field() {
    if !can_run("a_bundle_that_makes_no_sense_is_refused_naming_the_field") {
        return;
    }
    type Edit = fn(&mut serde_json::Value);
    let edits: [(&str, Edit); 6] = [
        ("ociVersion", |c| c["ociVersion"] = json!("2.0.0")),
        ("process.args", |c| c["process"]["args"] = json!([])),
        ("process.cwd", |c| c["process"]["cwd"] = json!("relative")),
        ("root.path", |c| c["root"]["path"] = json!("nosuch")),
        ("linux", |c| drop(c.as_object_mut().unwrap().remove("linux"))),
        ("config.json", |c| c["process"]["cwd"] = json!(7)),
    ];
    for (field, edit) in edits {
        let f = Fixture::with("true", edit);
        let error = f.create(Stdio::default()).await.unwrap_err();
        assert!(
            matches!(error, Error::InvalidBundle { .. }) && error.to_string().contains(field),
            "{field}: {error}"
        );
        f.assert_nothing_left();
    }
    let f = Fixture::new("true");
    let error = f
        .runtime
        .create(
            &f.id,
            "/nosuch".as_ref(),
            Stdio::default(),
            CreateOptions::default(),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidBundle { .. }), "{error}");
}
