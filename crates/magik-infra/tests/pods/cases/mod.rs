//! What a pod init promises: a pod's life here, the calls into it in [`calls`].

mod attach;
mod calls;

use std::{fs, future::Future, os::unix::fs::PermissionsExt, time::Duration};

use libtest_mimic::{Failed, Trial};
use magik_infra::{
    ControlClient, ControlError, EventKind,
    logs::LogOptions,
    plan::RootfsPlan,
    status::{ContainerPhase, ContainerStatus, Phase, PodStatus},
};

use crate::world::{World, eventually};

macro_rules! cases {
    ($($name:path),* $(,)?) => {
        pub(crate) fn all() -> Vec<Trial> {
            vec![$({
                let name = stringify!($name).rsplit(':').next().unwrap_or_default().trim();
                Trial::test(name, move || run(name, $name()))
            }),*]
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
    calls::exec_gives_output_exit_code_and_takes_input,
    calls::exec_keeps_the_containers_sandbox_and_takes_changes,
    calls::exec_with_a_terminal_can_be_resized,
    calls::exec_of_a_missing_program_says_so,
    calls::exec_dies_with_its_client,
    calls::exec_refuses_what_does_not_run,
    calls::exec_takes_more_input_than_the_window,
    calls::logs_follow_until_the_container_ends,
    calls::logs_tail_and_timestamps,
    attach::who_attaches_starts_a_container_and_is_its_streams,
    attach::who_lets_go_of_a_container_kills_it,
    stop_kills_who_ignores_it,
    two_stops_get_the_same_answer,
    sigterm_to_init_stops_the_pod,
    the_deadline_kills_the_pod,
    a_launcher_that_vanishes_takes_the_pod_with_it,
    a_pod_renamed_before_its_launcher_died_lives_on,
    events_tell_the_whole_story,
    stats_are_given_per_container,
    processes_are_given_per_container,
    calls::port_forward_reaches_a_port_in_the_pod,
    a_client_cannot_launch_or_commit,
    an_image_of_128_layers_with_awkward_paths_is_mounted,
    a_root_without_a_writable_layer_is_read_only,
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
        (
            stopped.phase,
            stopped.reason.map(magik_infra::status::PodReason::as_str)
        ),
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
        (
            status.phase,
            status.reason.map(magik_infra::status::PodReason::as_str)
        ),
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
    assert_eq!(
        world
            .status_file()
            .reason
            .map(magik_infra::status::PodReason::as_str),
        Some("Stopped")
    );
}

async fn the_deadline_kills_the_pod() {
    let mut world = World::new()
        .container("app", "trap '' TERM; while :; do sleep 1000; done")
        .deadline(1)
        .up()
        .await;
    assert_eq!(world.outcome().await, "finished Failed");
    let status = world.status_file();
    assert_eq!(
        status.reason.map(magik_infra::status::PodReason::as_str),
        Some("DeadlineExceeded")
    );
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
    let launching = world
        .launch
        .as_ref()
        .unwrap()
        .start_sandbox(&world.plan)
        .await
        .unwrap();
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
    assert_eq!(
        status.reason.map(magik_infra::status::PodReason::as_str),
        Some("Stopped")
    );
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

async fn processes_are_given_per_container() {
    let world = World::new()
        .container("one", "sleep 1000")
        .container("two", "sleep 2000 & wait")
        .up()
        .await;
    let processes = world.client().await.processes().await.unwrap();
    assert_eq!(processes.keys().collect::<Vec<_>>(), ["one", "two"]);
    let first = processes["two"].iter().find(|process| process.pid == 1).unwrap();
    assert!(first.rss > 0, "{first:?}");
    assert_eq!(first.uid, 0);
    assert!(first.command.contains("sleep 2000 & wait"), "{first:?}");
}

async fn a_client_cannot_launch_or_commit() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let client = world.client().await;
    assert!(matches!(client.commit().await, Err(ControlError::Refused(_))));
    assert!(matches!(
        client.start_sandbox(&world.plan).await.unwrap().ready().await,
        Err(ControlError::Refused(_))
    ));
    let again = world
        .launch
        .as_ref()
        .unwrap()
        .start_sandbox(&world.plan)
        .await
        .unwrap();
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
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", world.init_pid())).unwrap();
    // Mappings of no file: the program's own pages, relocations included, depend on how it was built.
    let (mut of_file, mut allocated) = (false, 0);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Pss:", kib, "kB"] if !of_file => allocated += kib.parse::<u64>().unwrap(),
            [range, _, _, _, _, ref path @ ..] if range.contains('-') => {
                of_file = path.first().is_some_and(|path| path.starts_with('/'));
            }
            _ => {}
        }
    }
    eprintln!("allocated {allocated} kB");
    // What it allocates must leave them room in 4 MiB.
    assert!((1..2048).contains(&allocated), "{smaps}");
}

async fn an_image_of_128_layers_with_awkward_paths_is_mounted() {
    let mut world = World::new();
    // The last layer's path is longer than fsconfig takes, and has what mount options are cut at.
    let deep = format!("{}/{}/a,b:c", "d".repeat(120), "e".repeat(140));
    let names = (0..126)
        .map(|n| format!("layers/{n:064}"))
        .chain([format!("layers/{deep}")]);
    let mut lower: Vec<_> = names.map(|name| world.path(&name)).collect();
    for (n, layer) in lower.iter().enumerate() {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join(format!("file{n}")), "").unwrap();
        fs::write(layer.join("top"), n.to_string()).unwrap();
    }
    lower.push(world.path("layer"));
    world = world.container(
        "app",
        "ls /; cat /top; echo; touch /new && echo writable; sleep 1000",
    );
    let RootfsPlan::Overlay { lower: layers, .. } = &mut world.plan.containers[0].rootfs else {
        unreachable!()
    };
    *layers = lower;
    let world = world.up().await;
    world.logged("app", "writable").await;
    let log = world.logs("app", LogOptions::default()).await;
    assert!(
        log.contains("file0\n") && log.contains("file126\n") && log.contains("\n0\nwritable\n"),
        "{log}"
    );
}

async fn a_root_without_a_writable_layer_is_read_only() {
    // One layer is a bind mount, several are an overlay.
    for layers in [1, 2] {
        let mut world = World::new().container("app", "touch /new || echo refused; sleep 1000");
        let lower = [world.path("layer"), world.path("layer-below")][..layers].to_vec();
        fs::create_dir(world.path("layer-below")).unwrap();
        world.plan.containers[0].rootfs = RootfsPlan::Overlay { lower, upper: None };
        let world = world.up().await;
        world.logged("app", "refused").await;
        assert!(!world.path("layer/new").exists());
    }
}
