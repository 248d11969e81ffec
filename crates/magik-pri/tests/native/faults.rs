//! Every failure is named, and leaves nothing.

use std::{os::unix::fs::symlink, time::Duration};

use magik_pri::{Error, PodRuntime, RunOptions, Step, status::Phase};
use serde_json::json;

use crate::support::{Test, World, test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    test!(a_failure_names_step_and_container_and_leaves_nothing),
    test!(a_run_that_is_given_up_leaves_nothing),
    test!(a_run_that_is_given_up_is_gone_once_it_is_settled),
    test!(a_pod_whose_init_was_killed_has_failed),
    test!(leftovers_are_swept_and_those_of_others_are_not),
    test!(what_a_container_nests_deeply_is_deleted),
    test!(another_runtime_class_is_refused),
    test!(there_are_as_many_pods_as_the_limit_says_and_not_one_more),
    test!(a_full_disk_is_named_and_leaves_nothing),
];

async fn a_failure_names_step_and_container_and_leaves_nothing(w: &World) {
    let sleep = || w.container("a", "exec sleep 1000");
    let mut missing = w.container("c", "");
    missing["command"] = json!(["/no/such/program"]);
    let mut no_image = w.container("b", "true");
    no_image["image"] = json!(format!("oci:{}", w.path("nowhere").display()));
    let mut no_name = w.container("b", "true");
    no_name["image"] = json!("localhost:1/nothing:1");
    let mut user = w.container("b", "true");
    user["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volume = |path: &str| json!([{"name": "v", "hostPath": {"path": w.path(path), "type": "Directory"}}]);
    for (spec, step, container, part) in [
        (
            json!({"containers": [sleep(), w.container("b", "exec sleep 1000"), missing]}),
            Step::Start,
            Some("c"),
            "/no/such/program",
        ),
        (
            json!({"initContainers": [w.container("i", "echo why >&2; exit 3")], "containers": [sleep()]}),
            Step::Start,
            Some("i"),
            "3",
        ),
        (
            json!({"containers": [sleep(), no_image]}),
            Step::Images,
            Some("b"),
            "nowhere",
        ),
        (
            json!({"containers": [sleep(), no_name]}),
            Step::Images,
            Some("b"),
            "localhost:1/nothing:1",
        ),
        (
            json!({"containers": [sleep(), user], "volumes": volume("nowhere")}),
            Step::Launch,
            None,
            "volume v: hostPath",
        ),
        (
            json!({"containers": [sleep()], "volumes": volume("layout/index.json")}),
            Step::Launch,
            None,
            "is no directory",
        ),
    ] {
        let error = w.run(&w.pod("web", &spec)).await.unwrap_err();
        let Error::Run {
            step: found,
            container: named,
            reason,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((*found, named.as_deref()), (step, container), "{error}");
        assert!(
            reason.contains(part) && !error.to_string().contains('\n'),
            "{error}"
        );
        w.assert_empty();
    }
}

async fn a_run_that_is_given_up_leaves_nothing(w: &World) {
    let spec = w.pod(
        "web",
        &json!({
            "initContainers": [w.container("i", "exec sleep 1000")],
            "containers": [w.container("a", "exec sleep 1000")],
        }),
    );
    for millis in [0, 1, 3, 10, 30, 100, 300] {
        let run = w.runtime.run_pod(&spec, RunOptions::default());
        assert!(
            tokio::time::timeout(Duration::from_millis(millis), run)
                .await
                .is_err()
        );
        w.assert_empty_soon().await;
    }
}

async fn a_run_that_is_given_up_is_gone_once_it_is_settled(w: &World) {
    let spec = w.pod(
        "web",
        &json!({
            "initContainers": [w.container("i", "exec sleep 1000")],
            "containers": [w.container("a", "exec sleep 1000")],
        }),
    );
    for millis in 0..40 {
        let run = w.runtime.run_pod(&spec, RunOptions::default());
        let given_up = tokio::time::timeout(Duration::from_millis(millis), run).await;
        assert!(given_up.is_err());
        w.runtime.settled().await;
        let mut left = w.leftovers();
        // What arrives of an image is the store's, which removes it in its own time.
        left.retain(|path| !path.contains("/data/tmp/"));
        assert_eq!(left, Vec::<String>::new(), "after {millis} ms");
    }
    // One that was not given up is settled, too.
    w.run(&w.scripts("web", &[("a", "exec sleep 1000")]))
        .await
        .unwrap();
    w.runtime.settled().await;
}

async fn a_pod_whose_init_was_killed_has_failed(w: &World) {
    let status = w
        .run(&w.scripts(
            "web",
            &[("a", "exec sleep 1000"), ("b", "echo x; exec sleep 1000")],
        ))
        .await
        .unwrap();
    w.log_until("web", "b", "x\n").await;
    let init = std::fs::read_to_string(w.path("state/pods").join(&status.id).join("init")).unwrap();
    let pid = init
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let status = w.runtime.wait_pod("web").await.unwrap();
    assert_eq!(
        (
            status.phase,
            status.reason.map(magik_infra::status::PodReason::as_str)
        ),
        (Phase::Failed, Some("InitDied"))
    );
    assert_eq!(w.runtime.stop_pod("web", None).await.unwrap(), status);
    assert_eq!(w.log("web", "b").await, "x\n");
    let error = w.runtime.stats("web").await.unwrap_err();
    assert!(matches!(error, Error::WrongState { .. }), "{error}");
    // The name stays taken until the pod is deleted.
    let error = w.run(&w.scripts("web", &[("a", "true")])).await.unwrap_err();
    assert!(matches!(error, Error::NameInUse { .. }), "{error}");
    w.runtime.delete_pod("web", false).await.unwrap();
}

async fn leftovers_are_swept_and_those_of_others_are_not(w: &World) {
    let status = w
        .run(&w.scripts("web", &[("a", "exec sleep 1000")]))
        .await
        .unwrap();
    let tag = &status.id[16..];
    let (ours, others) = (
        format!("{}{tag}", "0".repeat(16)),
        format!("{}{}", "0".repeat(16), "f".repeat(8)),
    );
    for id in [&ours, &others] {
        std::fs::create_dir_all(w.path("data/pods").join(id).join("rw/a")).unwrap();
    }
    std::fs::write(w.path("data/leases").join(&ours), "{\"images\":[],\"layers\":[]}").unwrap();
    std::fs::write(w.path("state/intents").join(&ours), "").unwrap();
    let pending = w
        .path("state/pods")
        .join(format!("{}{tag}.pending", "1".repeat(16)));
    std::fs::create_dir(&pending).unwrap();
    symlink("default_old", pending.join("name")).unwrap();
    symlink(
        format!("{}{tag}", "1".repeat(16)),
        w.path("state/names/default_old"),
    )
    .unwrap();

    let report = w.runtime.sweep().await.unwrap();
    assert_eq!(report.pods, [format!("{}{tag}", "1".repeat(16))]);
    assert!(report.leftovers > 0);
    assert_eq!(
        w.runtime.sweep().await.unwrap(),
        magik_pri::SweepReport::default()
    );
    assert!(w.path("data/pods").join(&others).exists());
    std::fs::remove_dir_all(w.path("data/pods").join(&others)).unwrap();
    assert_eq!(w.runtime.pod_status("web").await.unwrap().phase, Phase::Running);
}

async fn what_a_container_nests_deeply_is_deleted(w: &World) {
    let script = "mkdir -p deep; cd deep; i=0; while [ $i -lt 300 ]; do mkdir -p d/d/d/d; cd d/d/d/d; i=$((i+1)); done; echo done; exec sleep 1000";
    w.run(&w.scripts("deep", &[("c", script)])).await.unwrap();
    w.log_until("deep", "c", "done\n").await;
    w.runtime.delete_pod("deep", true).await.unwrap();
    w.assert_empty();
}

async fn another_runtime_class_is_refused(w: &World) {
    let spec = w.pod(
        "vm",
        &json!({"runtimeClassName": "microvm", "containers": [w.container("a", "true")]}),
    );
    let error = w.run(&spec).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

async fn there_are_as_many_pods_as_the_limit_says_and_not_one_more(w: &World) {
    w.run(&w.scripts("first", &[("a", "exec sleep 1000")]))
        .await
        .unwrap();
    let dummy = |i: usize| w.path("state/pods").join(format!("dummy-{i}"));
    for i in 0..magik_pri::limits::MAX_PODS - 2 {
        std::fs::create_dir(dummy(i)).unwrap();
    }
    w.run(&w.scripts("last", &[("a", "exec sleep 1000")]))
        .await
        .unwrap();
    let error = w.run(&w.scripts("more", &[("a", "true")])).await.unwrap_err();
    assert!(matches!(error, Error::TooManyPods), "{error}");
    for i in 0..magik_pri::limits::MAX_PODS - 2 {
        std::fs::remove_dir(dummy(i)).unwrap();
    }
}

async fn a_full_disk_is_named_and_leaves_nothing(w: &World) {
    // The images are there; what the pod itself needs is not.
    w.run(&w.scripts("warm", &[("a", "true")])).await.unwrap();
    w.runtime.delete_pod("warm", true).await.unwrap();
    let state = w.path("state");
    for inodes in 6..60 {
        let options = std::ffi::CString::new(format!("nr_inodes={inodes},size=1m")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            &state,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap();
        // Opened on the small file system, as the roots are made when a runtime is first used.
        let result = w
            .another_runtime()
            .run_pod(
                &w.scripts("web", &[("a", "exec sleep 1000")]),
                RunOptions::default(),
            )
            .await;
        let step = match &result {
            Err(Error::Run { step, .. }) => Some(*step),
            _ => None,
        };
        if let Ok(status) = &result {
            w.another_runtime().delete_pod(&status.id, true).await.unwrap();
        }
        let left = w.leftovers();
        rustix::mount::unmount(&state, rustix::mount::UnmountFlags::DETACH).unwrap();
        let own = left
            .iter()
            .filter(|line| !line.contains(" - tmpfs "))
            .collect::<Vec<_>>();
        assert!(own.is_empty(), "{inodes} inodes, {result:?}: {own:#?}");
        if result.is_ok() {
            return;
        }
        assert!(
            step.is_some() || matches!(result, Err(Error::Io { .. })),
            "{result:?}"
        );
    }
    panic!("60 inodes are not enough for a pod");
}
