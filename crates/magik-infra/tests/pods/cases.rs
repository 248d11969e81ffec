//! What a pod init promises.

use std::{fs, future::Future, os::unix::fs::PermissionsExt, time::Duration};

use libtest_mimic::{Failed, Trial};
use magik_infra::{
    ControlClient, ControlError, EventKind, ExecEvent, ExecRequest,
    logs::LogOptions,
    status::{ContainerPhase, ContainerStatus, Phase, PodStatus},
};

use crate::world::{World, eventually};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn all() -> Vec<Trial> {
            vec![$(Trial::test(stringify!($name), || run(stringify!($name), $name()))),*]
        }
    };
}

cases![
    runs_a_pod_and_stops_it,
    init_containers_run_in_order_before_the_others,
    a_failing_init_container_fails_the_launch_with_its_last_line,
    a_missing_program_fails_the_launch_and_nothing_is_started,
    a_pod_ends_when_its_containers_do,
    a_pod_that_ends_at_once_can_still_be_committed,
    exec_gives_output_exit_code_and_takes_input,
    exec_keeps_the_containers_sandbox_and_takes_changes,
    exec_with_a_terminal_can_be_resized,
    exec_of_a_missing_program_says_so,
    exec_dies_with_its_client,
    exec_refuses_what_does_not_run,
    exec_takes_more_input_than_the_window,
    logs_follow_until_the_container_ends,
    logs_tail_and_timestamps,
    stop_kills_who_ignores_it,
    two_stops_get_the_same_answer,
    sigterm_to_init_stops_the_pod,
    the_deadline_kills_the_pod,
    a_launcher_that_vanishes_takes_the_pod_with_it,
    a_pod_renamed_before_its_launcher_died_lives_on,
    events_tell_the_whole_story,
    stats_are_given_per_container,
    port_forward_reaches_a_port_in_the_pod,
    a_client_cannot_launch_or_commit,
    sixteen_containers_fit_the_memory_budget,
];

fn run(name: &str, case: impl Future<Output = ()>) -> Result<(), Failed> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(case);
    Ok(())
}

fn exit_code(status: &PodStatus, name: &str) -> Option<i32> {
    let all = status.init_containers.iter().chain(&status.containers);
    all.into_iter().find(|c| c.name == name).and_then(code)
}

fn code(container: &ContainerStatus) -> Option<i32> {
    match container.state {
        ContainerPhase::Exited { exit, .. } => Some(exit.code),
        _ => None,
    }
}

const FOREVER: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";

async fn runs_a_pod_and_stops_it() {
    let mut world = World::new()
        .container("one", FOREVER)
        .container("two", FOREVER)
        .up()
        .await;
    let client = world.client().await;
    assert_eq!(client.pod_id(), "test-pod");
    let status = client.status().await.unwrap();
    assert_eq!(status.phase, Phase::Running);
    assert!(
        status
            .containers
            .iter()
            .all(|c| matches!(c.state, ContainerPhase::Running { pid: Some(_), .. }))
    );
    assert_eq!(world.status_file(), status);
    let mode = fs::metadata(world.path("pod/control.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    for name in ["one", "two"] {
        world.logged(name, "up").await;
    }
    let stopped = client.stop(Some(Duration::from_secs(30))).await.unwrap();
    assert_eq!(
        (stopped.phase, stopped.reason.as_deref()),
        (Phase::Succeeded, Some("Stopped"))
    );
    assert!(stopped.finished_at.is_some());
    assert_eq!(world.status_file(), stopped);
    assert_eq!(world.outcome().await, "finished Succeeded");
}

async fn init_containers_run_in_order_before_the_others() {
    let world = World::new()
        .shared_tmpfs()
        .init_container("first", "echo a > /shared/x")
        .init_container("second", "cat /shared/x && echo b >> /shared/x")
        .container("app", "cat /shared/x; sleep 1000")
        .up()
        .await;
    world.logged("app", "stdout F b").await;
    assert_eq!(world.logs("app", LogOptions::default()).await, "a\nb\n");
    let status = world.client().await.status().await.unwrap();
    assert_eq!(
        (exit_code(&status, "first"), exit_code(&status, "second")),
        (Some(0), Some(0))
    );
}

async fn a_failing_init_container_fails_the_launch_with_its_last_line() {
    let mut world = World::new()
        .init_container("fine", "true")
        .init_container("broken", "echo nothing; echo no database >&2; exit 3")
        .container("app", "echo started");
    let Err(ControlError::Launch(error)) = world.launch().await else {
        panic!("it started")
    };
    assert_eq!(
        (error.container.as_deref(), error.step.as_str()),
        (Some("broken"), "init-container")
    );
    assert!(
        error.message.contains("exit code 3") && error.message.contains("no database"),
        "{error}"
    );
    assert!(
        world
            .outcome()
            .await
            .contains("container broken: init-container: exit code 3")
    );
    assert!(!world.path("logs/app.log").exists());
    assert_eq!(world.status_file().phase, Phase::Failed);
}

async fn a_missing_program_fails_the_launch_and_nothing_is_started() {
    let mut world = World::new()
        .container("one", "echo started; sleep 1000")
        .container("two", "echo started; sleep 1000")
        .program("three", &["/no/such/program"]);
    let Err(ControlError::Launch(error)) = world.launch().await else {
        panic!("it started")
    };
    assert_eq!(error.container.as_deref(), Some("three"));
    assert!(error.message.contains("/no/such/program"), "{error}");
    world.outcome().await;
}

async fn a_pod_ends_when_its_containers_do() {
    let mut world = World::new()
        .container("good", "exit 0")
        .container("bad", "sleep 0.2; exit 7")
        .up()
        .await;
    assert_eq!(world.outcome().await, "finished Failed");
    let status = world.status_file();
    assert_eq!(
        (exit_code(&status, "good"), exit_code(&status, "bad")),
        (Some(0), Some(7))
    );
    assert_eq!((status.exit_code(), status.reason), (7, None));
}

async fn a_pod_that_ends_at_once_can_still_be_committed() {
    let mut world = World::new().container("app", "exit 5");
    world.launch().await.unwrap();
    eventually("the pod is over", || world.status_file().phase == Phase::Failed).await;
    world.commit();
    world.launch.as_ref().unwrap().commit().await.unwrap();
    assert_eq!(world.outcome().await, "finished Failed");

    let mut world = World::new().container("app", "exit 5");
    world.launch().await.unwrap();
    eventually("the pod is over", || world.status_file().phase == Phase::Failed).await;
    drop(world.launch.take());
    assert_eq!(world.outcome().await, "abandoned");
}

async fn exec_gives_output_exit_code_and_takes_input() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let (output, code) = world
        .exec("app", &["sh", "-c", "echo out; echo err >&2; exit 3"])
        .await;
    assert_eq!((output.as_str(), code), ("out\nerr\n", 3));
    assert_eq!(world.exec("app", &["sh", "-c", "kill -9 $$"]).await.1, 137);
    assert_eq!(
        world.exec("app", &["cat"]).await,
        (String::new(), 0),
        "without input it reads /dev/null"
    );

    let request = ExecRequest {
        stdin: true,
        ..ExecRequest::new("app", ["cat"])
    };
    let session = world.client().await.exec(&request).await.unwrap();
    session.input.write(b"hello").await.unwrap();
    session.input.close().await.unwrap();
    let (stdout, _, code) = session.collect(100).await.unwrap();
    assert_eq!((stdout.as_slice(), code), (&b"hello"[..], 0));
}

async fn exec_keeps_the_containers_sandbox_and_takes_changes() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let (output, _) = world
        .exec(
            "app",
            &[
                "sh",
                "-c",
                "pwd; id -u; ulimit -n; echo $POD; cat /proc/self/status",
            ],
        )
        .await;
    assert!(output.starts_with("/\n0\n999\ntest\n"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
    assert!(output.contains("CapBnd:\t00000000000004e0"), "{output}");

    let request = ExecRequest {
        env: vec!["POD=other".into()],
        cwd: Some("/tmp".into()),
        user: Some("1000:1001".into()),
        ..ExecRequest::new("app", ["sh", "-c", "pwd; id -u; id -g; echo $POD"])
    };
    let session = world.client().await.exec(&request).await.unwrap();
    let (stdout, _, code) = session.collect(1000).await.unwrap();
    assert_eq!(
        (String::from_utf8(stdout).unwrap().as_str(), code),
        ("/tmp\n1000\n1001\nother\n", 0)
    );
}

async fn exec_with_a_terminal_can_be_resized() {
    let world = World::new().container("app", "sleep 1000").up().await;
    // As everywhere, a terminal has its size a moment after its program has started.
    let script = "tty; until [ \"$(stty size)\" = '40 120' ]; do sleep 0.01; done; echo sized; read line; stty size; exit 4";
    let request = ExecRequest {
        tty: true,
        stdin: true,
        size: Some((40, 120)),
        ..ExecRequest::new("app", ["sh", "-c", script])
    };
    let mut session = world.client().await.exec(&request).await.unwrap();
    let (mut text, mut resized) = (String::new(), false);
    let code = loop {
        match session.output.next().await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => text += &String::from_utf8(bytes).unwrap(),
            ExecEvent::Stderr(_) => panic!("a terminal has one stream"),
            ExecEvent::Exited(code) => break code,
        }
        if text.contains("sized") && !resized {
            resized = true;
            session.input.resize(50, 99).await.unwrap();
            session.input.write(b"\n").await.unwrap();
        }
    };
    assert!(text.starts_with("/dev/pts/") && text.contains("50 99"), "{text}");
    assert_eq!(code, 4);
}

async fn exec_of_a_missing_program_says_so() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let error = world
        .client()
        .await
        .exec(&ExecRequest::new("app", ["/no/such"]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ControlError::CannotExecute(m) if m.contains("cannot execute /no/such")),
        "{error}"
    );
}

async fn exec_dies_with_its_client() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let session = world
        .client()
        .await
        .exec(&ExecRequest::new("app", ["sleep", "4321"]))
        .await
        .unwrap();
    assert!(world.exec("app", &["ps"]).await.0.contains("sleep 4321"));
    drop(session);
    for _ in 0..400 {
        if !world.exec("app", &["ps"]).await.0.contains("sleep 4321") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the exec'd process outlived its client");
}

async fn exec_refuses_what_does_not_run() {
    let world = World::new()
        .container("app", "sleep 1000")
        .container("short", "true")
        .up()
        .await;
    let error = world
        .client()
        .await
        .exec(&ExecRequest::new("nobody", ["true"]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ControlError::NotFound(m) if m.contains("nobody")),
        "{error}"
    );
    let client = world.client().await;
    for _ in 0..400 {
        if exit_code(&client.status().await.unwrap(), "short").is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = client
        .exec(&ExecRequest::new("short", ["true"]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused(m) if m.contains("short is not running")),
        "{error}"
    );
    let error = world
        .client()
        .await
        .exec(&ExecRequest::new("app", Vec::<String>::new()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused(m) if m.contains("no program")),
        "{error}"
    );
}

async fn exec_takes_more_input_than_the_window() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let request = ExecRequest {
        stdin: true,
        ..ExecRequest::new("app", ["sh", "-c", "sleep 0.2; cat"])
    };
    let session = world.client().await.exec(&request).await.unwrap();
    let input = session.input.clone();
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (sent, collected) = tokio::join!(
        async {
            input.write(&bytes).await?;
            input.close().await
        },
        session.collect(8_000_000)
    );
    sent.unwrap();
    let (stdout, _, code) = collected.unwrap();
    assert!(stdout == bytes, "{} bytes of {}", stdout.len(), bytes.len());
    assert_eq!(code, 0);
}

async fn logs_follow_until_the_container_ends() {
    let world = World::new()
        .container(
            "app",
            "for i in $(seq 1 50); do echo line $i; done; read x < /tmp/go; echo last; exit 0",
        )
        .container("other", "sleep 1000");
    fs::create_dir_all(world.path("layer/tmp")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("layer/tmp/go"),
        rustix::fs::FileType::Fifo,
        0o666.into(),
        0,
    )
    .unwrap();
    let world = world.up().await;
    let mut output = world
        .client()
        .await
        .logs("app", &LogOptions::default(), true)
        .await
        .unwrap();
    let mut text = String::new();
    while !text.contains("line 50\n") {
        text += &String::from_utf8(output.next().await.unwrap().unwrap().data).unwrap();
    }
    world.exec("app", &["sh", "-c", "echo > /tmp/go"]).await;
    while let Some(chunk) = output.next().await.unwrap() {
        text += &String::from_utf8(chunk.data).unwrap();
    }
    let expected: String = (1..=50)
        .map(|n| format!("line {n}\n"))
        .chain(["last\n".to_owned()])
        .collect();
    assert_eq!(text, expected);
}

async fn logs_tail_and_timestamps() {
    let world = World::new()
        .container("app", "seq 1 9; echo done >&2; sleep 1000")
        .up()
        .await;
    world.logged("app", "done").await;
    world.logged("app", " 9\n").await;
    let all = world.logs("app", LogOptions::default()).await;
    assert_eq!(all.lines().count(), 10);
    let tail = world
        .logs(
            "app",
            LogOptions {
                tail: Some(2),
                timestamps: true,
                ..LogOptions::default()
            },
        )
        .await;
    assert_eq!(tail.lines().count(), 2);
    for line in tail.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
    }
    let mut missing = world
        .client()
        .await
        .logs("nobody", &LogOptions::default(), false)
        .await
        .unwrap();
    assert!(matches!(missing.next().await, Err(ControlError::NotFound(_))));
}

async fn stop_kills_who_ignores_it() {
    let mut world = World::new()
        .container("deaf", "trap '' TERM; echo up; while :; do sleep 1000; done")
        .container("polite", FOREVER)
        .up()
        .await;
    world.logged("deaf", "up").await;
    world.logged("polite", "up").await;
    let status = world
        .client()
        .await
        .stop(Some(Duration::from_millis(200)))
        .await
        .unwrap();
    assert_eq!(
        (exit_code(&status, "deaf"), exit_code(&status, "polite")),
        (Some(137), Some(0))
    );
    assert_eq!(
        (status.phase, status.reason.as_deref()),
        (Phase::Failed, Some("Stopped"))
    );
    world.outcome().await;
}

async fn two_stops_get_the_same_answer() {
    let world = World::new()
        .container("deaf", "trap '' TERM; echo up; while :; do sleep 1000; done")
        .up()
        .await;
    world.logged("deaf", "up").await;
    let (one, two) = (world.client().await, world.client().await);
    // The second one is in a greater hurry, and that is what counts.
    let (one, two) = tokio::join!(one.stop(Some(Duration::from_secs(1000))), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        two.stop(Some(Duration::ZERO)).await
    });
    assert_eq!(one.unwrap(), two.unwrap());
}

async fn sigterm_to_init_stops_the_pod() {
    let mut world = World::new().container("app", FOREVER).grace(30).up().await;
    world.logged("app", "up").await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(world.init_pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(world.outcome().await, "finished Succeeded");
    assert_eq!(world.status_file().reason.as_deref(), Some("Stopped"));
}

async fn the_deadline_kills_the_pod() {
    let mut world = World::new()
        .container("app", "trap '' TERM; while :; do sleep 1000; done")
        .deadline(1)
        .up()
        .await;
    assert_eq!(world.outcome().await, "finished Failed");
    let status = world.status_file();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(exit_code(&status, "app"), Some(137));
}

async fn a_launcher_that_vanishes_takes_the_pod_with_it() {
    // Before the launch, while an init container runs, and when it is ready.
    let mut world = World::new().container("app", "sleep 1000");
    world.start_init().await;
    drop(world.launch.take());
    assert_eq!(world.outcome().await, "abandoned");

    let mut world = World::new()
        .init_container("slow", "echo up; sleep 1000")
        .container("app", "sleep 1000");
    world.start_init().await;
    let launching = world.launch.as_ref().unwrap().launch(&world.plan).await.unwrap();
    world.logged("slow", "up").await;
    drop((launching, world.launch.take()));
    assert_eq!(world.outcome().await, "abandoned");

    let mut world = World::new().container("app", "sleep 1000");
    world.launch().await.unwrap();
    drop(world.launch.take());
    assert_eq!(world.outcome().await, "abandoned");
}

async fn a_pod_renamed_before_its_launcher_died_lives_on() {
    let mut world = World::new().container("app", FOREVER);
    world.launch().await.unwrap();
    world.commit();
    drop(world.launch.take());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = world.client().await.stop(None).await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("Stopped"));
    world.outcome().await;
}

async fn events_tell_the_whole_story() {
    let world = World::new()
        .init_container("prepare", "true")
        .container("app", FOREVER)
        .up()
        .await;
    world.logged("app", "up").await;
    let mut follower = world.client().await.events(true).await.unwrap();
    world.client().await.stop(None).await.unwrap();
    let mut story = Vec::new();
    while let Some(event) = follower.next().await.unwrap() {
        story.push((event.kind, event.container, event.exit_code));
    }
    let event = |kind: EventKind, container: &str, code: Option<i32>| (kind, container.to_owned(), code);
    let expected = [
        event(EventKind::ContainerCreated, "prepare", None),
        event(EventKind::ContainerStarted, "prepare", None),
        event(EventKind::ContainerExited, "prepare", Some(0)),
        event(EventKind::ContainerCreated, "app", None),
        event(EventKind::ContainerStarted, "app", None),
        event(EventKind::PodReady, "", None),
        event(EventKind::PodStopping, "", None),
        event(EventKind::ContainerExited, "app", Some(0)),
        event(EventKind::PodStopped, "", None),
    ];
    assert_eq!(story, expected);
}

async fn stats_are_given_per_container() {
    let world = World::new()
        .container("one", "sleep 1000")
        .container("two", "sleep 1000")
        .up()
        .await;
    let stats = world.client().await.stats().await.unwrap();
    assert_eq!(stats.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert!(stats["one"].pids.current >= 1, "{stats:?}");
}

async fn port_forward_reaches_a_port_in_the_pod() {
    let world = World::new()
        .container("app", "exec nc -ll -p 7007 -e cat")
        .up()
        .await;
    // The server takes a moment to listen.
    for attempt in 0.. {
        let mut forward = world.client().await.port_forward(7007).await.unwrap();
        if forward.writer.write(b"ping").await.is_err() {
            continue;
        }
        match forward.reader.next().await {
            Ok(Some(bytes)) => {
                assert_eq!(bytes, b"ping");
                break;
            }
            Err(ControlError::Refused(m)) if m.contains("7007") && attempt < 400 => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    // A megabyte through, and the end in both directions.
    let forward = world.client().await.port_forward(7007).await.unwrap();
    let (mut ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let bytes = vec![7; 1 << 20];
    let (copied, echoed) = tokio::join!(forward.copy(theirs), async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut read, mut write) = ours.split();
        let (sent, echoed) = tokio::join!(
            async {
                write.write_all(&bytes).await.unwrap();
                write.shutdown().await
            },
            async {
                let mut echoed = Vec::new();
                read.read_to_end(&mut echoed).await.unwrap();
                echoed
            }
        );
        sent.unwrap();
        echoed
    });
    copied.unwrap();
    assert!(echoed == bytes, "{} bytes came back", echoed.len());
}

async fn a_client_cannot_launch_or_commit() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let client = world.client().await;
    assert!(matches!(client.commit().await, Err(ControlError::Refused(_))));
    assert!(matches!(
        client.launch(&world.plan).await.unwrap().ready().await,
        Err(ControlError::Refused(_))
    ));
    let again = world.launch.as_ref().unwrap().launch(&world.plan).await.unwrap();
    assert!(matches!(again.ready().await, Err(ControlError::Launch(e)) if e.message.contains("already")));
    assert!(
        ControlClient::connect(&world.path("pod/nobody.sock"))
            .await
            .is_err()
    );
}

async fn sixteen_containers_fit_the_memory_budget() {
    let mut world = World::new();
    for n in 0..16 {
        world = world.container(&format!("c{n}"), "echo up; exec sleep 1000");
    }
    let world = world.up().await;
    eventually("all are up", || {
        (0..16).all(|n| {
            fs::read_to_string(world.path(&format!("logs/c{n}.log"))).is_ok_and(|log| log.contains("up"))
        })
    })
    .await;
    let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", world.init_pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = smaps.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    eprintln!("Pss_Anon {} kB, Pss {} kB", field("Pss_Anon:"), field("Pss:"));
    // The program's own pages depend on how it was built; what it allocates must leave them room in 4 MiB.
    assert!(field("Pss_Anon:") < 2048, "{smaps}");
}
