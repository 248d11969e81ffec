//! One container of a running pod is stopped, run again, removed.

use std::{path::Path, time::Duration};

use magik_infra::status::{ContainerPhase, ContainerStatus, Phase, PodStatus};
use magik_pri::{Error, Mount, PodSpec, RunOptions, RuntimeClass};
use magikrun_test_images::{ImageConfig, LayerBuilder};
use serde_json::json;

use super::{Contract, class, exit_of, init_of};
use crate::{as_root, busybox_layout};

const SOON: Option<Duration> = Some(Duration::from_millis(200));

fn find<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    status.container(name).expect("a container of that name")
}

fn runs(status: &PodStatus, name: &str) -> bool {
    matches!(find(status, name).state, ContainerPhase::Running { .. })
}

/// It runs anew, with a file system of its own that is empty again, while the others go on. Its log
/// goes on, too.
pub async fn a_container_is_run_again_and_the_others_go_on(t: &Contract<'_>) {
    let script = "test -e /mine && echo old; touch /mine; echo ran; while :; do sleep 0.05; done";
    let before = t
        .run("again", &[("a", script), ("b", "echo up; sleep 100")])
        .await
        .expect("run");
    let pod = &before.id;
    t.until_logged(pod, "a", "ran\n").await;
    for count in 1..=3 {
        let restarted = t.runtime.restart_container(pod, "a", SOON).await;
        let status = restarted.expect("run again");
        let a = find(&status, "a");
        assert!(runs(&status, "a"), "{a:?}");
        assert_eq!((a.restart_count, a.past.len()), (count, count as usize));
        assert_eq!(status.phase, Phase::Running);
        assert_eq!(
            find(&status, "b"),
            find(&before, "b"),
            "nothing happened to the other"
        );
        assert_eq!(t.runtime.pod_status(pod).await.expect("status"), status);
        let times = |log: &str| log.matches("ran\n").count();
        while times(&t.until_logged(pod, "a", "ran\n").await) <= count as usize {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    if t.kit.processes {
        let log = t.until_logged(pod, "a", "ran\n").await;
        assert!(!log.contains("old"), "its writable layer is a new one: {log}");
        assert_eq!(t.exec(pod, "a", &["cat", "/mine"]).await.code, 0);
        assert_eq!(t.exec(pod, "b", &["true"]).await.code, 0);
    }
    let stopped = t.runtime.stop_pod(pod, SOON).await.expect("stop");
    assert!(stopped.phase.is_final());
    t.delete(pod).await;
}

/// One that was stopped can be run again or removed; the pod goes on as long as another one runs.
pub async fn a_container_is_stopped_run_again_and_removed(t: &Contract<'_>) {
    let polite = t.kit.until_term(3).replace("while", "echo ready; while");
    // What cannot hear the signal runs until the time is over.
    let grace = Some(Duration::from_secs(if t.kit.processes { 20 } else { 1 }));
    let before = t
        .run("parts", &[("a", &polite), ("b", "sleep 100")])
        .await
        .expect("run");
    let pod = &before.id;
    t.until_logged(pod, "a", "ready").await;
    let stopped = t.runtime.stop_container(pod, "a", grace).await;
    let status = stopped.expect("stop");
    let (exit, expected) = (exit_of(&status, "a"), t.kit.exit_of_until_term(3));
    assert_eq!((exit.code, exit.signal), (expected.code, expected.signal));
    assert!(runs(&status, "b") && status.phase == Phase::Running);
    let again = t
        .runtime
        .stop_container(pod, "a", None)
        .await
        .expect("stop twice");
    assert_eq!(again, status, "it has ended already");

    let status = t
        .runtime
        .restart_container(pod, "a", None)
        .await
        .expect("run again");
    assert!(runs(&status, "a"));
    let refused = t.runtime.remove_container(pod, "a").await.expect_err("it runs");
    assert!(refused.to_string().contains("runs: stop it first"), "{refused}");

    t.runtime.stop_container(pod, "a", SOON).await.expect("stop");
    let status = t.runtime.remove_container(pod, "a").await.expect("remove");
    assert!(status.container("a").is_none() && runs(&status, "b"));
    assert_eq!(status.phase, Phase::Running);
    for refused in [
        t.runtime.restart_container(pod, "a", None).await,
        t.runtime.stop_container(pod, "nobody", None).await,
    ] {
        assert!(matches!(refused, Err(Error::Container { .. })), "{refused:?}");
    }
    // The last one takes the pod with it.
    t.runtime
        .stop_container(pod, "b", SOON)
        .await
        .expect("stop the last");
    let status = t.runtime.wait_pod(pod).await.expect("wait");
    assert!(status.phase.is_final() && status.container("a").is_none());
    t.runtime.delete_pod(pod, false).await.expect("delete");
}

/// A pod that is stopped while a container is being run again ends all the same, and whoever asked
/// for that gets an answer.
pub async fn a_pod_that_is_stopped_runs_nothing_again(t: &Contract<'_>) {
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let before = t.run("both", &[("a", script), ("b", script)]).await.expect("run");
    let pod = &before.id;
    t.until_logged(pod, "a", "up").await;
    let restart = t
        .runtime
        .restart_container(pod, "a", Some(Duration::from_millis(400)));
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        t.runtime.stop_pod(pod, Some(Duration::from_millis(50))).await
    };
    let (restarted, stopped) = tokio::join!(restart, stop);
    let stopped = stopped.expect("stop");
    assert!(stopped.phase.is_final(), "{stopped:?}");
    assert!(restarted.is_err(), "{restarted:?}");
    t.runtime.delete_pod(pod, false).await.expect("delete");
}

/// Of two who want different things of a container the later one gets it, and neither is told what
/// is not so.
pub async fn who_asks_last_for_a_container_decides(t: &Contract<'_>) {
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let before = t
        .run("two", &[("a", script), ("b", "sleep 100")])
        .await
        .expect("run");
    let pod = &before.id;
    t.until_logged(pod, "a", "up").await;
    let later = Duration::from_millis(100);
    let restart = t.runtime.restart_container(pod, "a", Some(3 * later));
    let stop = async {
        tokio::time::sleep(later).await;
        t.runtime.stop_container(pod, "a", Some(3 * later)).await
    };
    let (restarted, stopped) = tokio::join!(restart, stop);
    let stopped = stopped.expect("stop");
    assert!(!runs(&stopped, "a"), "it was stopped: {stopped:?}");
    let refused = restarted.expect_err("it does not run again").to_string();
    assert!(refused.contains("stopped by somebody else"), "{refused}");

    t.runtime
        .restart_container(pod, "a", None)
        .await
        .expect("run again");
    let stop = t.runtime.stop_container(pod, "a", Some(3 * later));
    let restart = async {
        tokio::time::sleep(later).await;
        t.runtime.restart_container(pod, "a", Some(3 * later)).await
    };
    let (stopped, restarted) = tokio::join!(stop, restart);
    stopped.expect("it had ended");
    assert!(runs(&restarted.expect("run again"), "a"));
    t.delete(pod).await;
}

/// One more container is there, waits, runs beside the others with the pod's volumes, and ends, goes
/// and comes like them. Where a pod has the containers that it began with, that is said by type.
pub async fn a_container_is_added_to_a_pod_that_runs(t: &Contract<'_>) {
    let mut manifest = t.pod(
        "more",
        &[
            ("a", "echo up; sleep 100"),
            ("b", "echo added >/v/new; sleep 100"),
        ],
    );
    manifest["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    for container in 0..2 {
        let mounts = json!([{"name": "v", "mountPath": "/v"}]);
        manifest["spec"]["containers"][container]["volumeMounts"] = mounts;
    }
    let both = PodSpec::from_json(&manifest.to_string()).expect("the specification");
    let mut first = both.clone();
    let added = first.containers.pop().expect("two containers");
    let pod = &t
        .runtime
        .run_pod(&first, RunOptions::default())
        .await
        .expect("run")
        .id;

    let created = t
        .runtime
        .create_container(pod, &added, RunOptions::default())
        .await;
    let status = match created {
        Err(Error::Unsupported { what, .. }) if class(&*t.runtime) == RuntimeClass::Wasm => {
            assert!(what.contains("create a container"), "{what}");
            let status = t.runtime.pod_status(pod).await.expect("status");
            assert_eq!(status.containers.len(), 1, "{status:?}");
            return t.delete(pod).await;
        }
        other => other.expect("create"),
    };
    assert_eq!(find(&status, "b").state, ContainerPhase::Created);
    let twice = t
        .runtime
        .create_container(pod, &added, RunOptions::default())
        .await;
    assert!(matches!(twice, Err(Error::Container { .. })), "{twice:?}");
    let mut lost = added.clone();
    lost.name = "lost".to_owned();
    lost.mounts[0].volume = "nowhere".to_owned();
    let refused = t
        .runtime
        .create_container(pod, &lost, RunOptions::default())
        .await;
    assert!(matches!(refused, Err(Error::Container { .. })), "{refused:?}");

    let status = t.runtime.start_container(pod, "b").await.expect("start");
    assert!(runs(&status, "a") && runs(&status, "b"));
    t.runtime
        .start_container(pod, "b")
        .await
        .expect_err("it runs already");
    while t.exec(pod, "a", &["cat", "/v/new"]).await.stdout != "added\n" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What it may use can be changed, what it had goes with it, and its name can be given again.
    let limits = json!({"memory": {"limit": 64 << 20}});
    let limits = serde_json::from_value(limits).expect("resources");
    t.runtime
        .update_container(pod, "b", &limits)
        .await
        .expect("update");
    let limit =
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    let seen = t.exec(pod, "b", &["sh", "-c", limit]).await.stdout;
    assert_eq!(seen.trim(), (64 << 20).to_string());
    t.exec(pod, "b", &["touch", "/mine"]).await;
    t.runtime.stop_container(pod, "b", SOON).await.expect("stop");
    t.runtime.remove_container(pod, "b").await.expect("remove");
    let again = t
        .runtime
        .create_container(pod, &added, RunOptions::default())
        .await;
    again.expect("create once more");
    t.runtime
        .start_container(pod, "b")
        .await
        .expect("start once more");
    assert_ne!(t.exec(pod, "b", &["test", "-e", "/mine"]).await.code, 0);

    // One that is created and never started does not keep the pod, and goes with it.
    let mut waiting = added.clone();
    waiting.name = "waiting".to_owned();
    let created = t
        .runtime
        .create_container(pod, &waiting, RunOptions::default())
        .await;
    created.expect("create one that waits");
    let status = t.runtime.stop_pod(pod, SOON).await.expect("stop");
    assert_eq!(find(&status, "waiting").state, ContainerPhase::Created);
    t.runtime.delete_pod(pod, false).await.expect("delete");
}

/// What cannot be created, or not be run, leaves the pod as it was.
pub async fn a_container_that_cannot_be_added_leaves_nothing(t: &Contract<'_>) {
    let before = t.run("less", &[("a", "echo up; sleep 100")]).await.expect("run");
    let pod = &before.id;
    let mut nothing = t.container("b", "true");
    nothing["image"] = json!("localhost/no-such-image:1");
    nothing["imagePullPolicy"] = json!("Never");
    let mut unknown = t.container("c", "true");
    unknown["command"] = json!(["/no/such/program"]);
    let mut manifest = t.pod("less", &[]);
    manifest["spec"]["containers"] = json!([nothing, unknown]);
    let spec = PodSpec::from_json(&manifest.to_string()).expect("the specification");
    let refused = t
        .runtime
        .create_container(pod, &spec.containers[0], RunOptions::default())
        .await;
    assert!(refused.is_err(), "{refused:?}");
    let created = t
        .runtime
        .create_container(pod, &spec.containers[1], RunOptions::default())
        .await;
    if created.is_ok() {
        let started = t.runtime.start_container(pod, "c").await;
        assert!(matches!(started, Err(Error::CannotExecute { .. })), "{started:?}");
        let status = t.runtime.pod_status(pod).await.expect("status");
        assert_eq!(exit_of(&status, "c").code, 127);
        t.runtime.remove_container(pod, "c").await.expect("remove");
    }
    let status = t.runtime.pod_status(pod).await.expect("status");
    assert_eq!(status, before);
    t.delete(pod).await;
}

/// What is added has the image that was asked for, also where the pod was started with others, and
/// where a container of that name had another image.
pub async fn what_is_added_has_its_own_image(t: &Contract<'_>) {
    let names = ["one", "two"];
    let layout = as_root(|| {
        let mut layout = busybox_layout(&t.scene.dir().join("others"));
        for name in names {
            let mut programs = LayerBuilder::new();
            programs.busybox().expect("busybox");
            let mut own = LayerBuilder::new();
            own.file("/which", 0o644, name.as_bytes()).expect("a file");
            let [programs, own] = [programs, own].map(|layer| layer.finish().expect("a layer"));
            let image = format!("localhost/{name}:1");
            layout
                .add(&image, &[&programs, &own], &ImageConfig::default())
                .expect("an image");
        }
        layout
    });
    let script = "cat /which; echo; sleep 100";
    let mut manifest = t.pod("images", &[("a", "echo up; sleep 100"), ("x", script)]);
    manifest["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": t.scene.dir()}}]);
    let mut first = PodSpec::from_json(&manifest.to_string()).expect("the specification");
    let mut x = first.containers.pop().expect("two containers");
    let options = RunOptions::default;
    let pod = &t.runtime.run_pod(&first, options()).await.expect("run").id;
    for name in names {
        let image = format!("localhost/{name}:1");
        t.magikrun.ok(&["image", "pull", &layout.reference(&image)]);
        x.image = image.parse().expect("a reference");
        let created = t.runtime.create_container(pod, &x, options()).await;
        created.expect("create");
        t.runtime.start_container(pod, "x").await.expect("start");
        assert_eq!(t.exec(pod, "x", &["cat", "/which"]).await.stdout, name);
        let log = t.until_logged(pod, "x", &format!("{name}\n")).await;
        assert_eq!(log.matches(name).count(), 1, "{log}");
        let shown = mounts_of_init(t, pod).matches("/machine/layers/x.").count();
        assert_eq!(shown, usize::from(class(&*t.runtime) == RuntimeClass::MicroVm));
        t.runtime.stop_container(pod, "x", SOON).await.expect("stop");
        t.runtime.remove_container(pod, "x").await.expect("remove");
        let left = mounts_of_init(t, pod);
        assert!(!left.contains("/x."), "what was mounted for it is gone: {left}");
    }
    // A machine has the host's directories that it began with.
    let mut mount = Mount::new("host", "/host");
    mount.read_only = true;
    x.mounts = vec![mount];
    let created = t.runtime.create_container(pod, &x, options()).await;
    match class(&*t.runtime) {
        RuntimeClass::MicroVm => assert!(matches!(created, Err(Error::Unsupported { .. })), "{created:?}"),
        _ => drop(created.expect("create")),
    }
    t.delete(pod).await;
}

/// What is mounted where the pod's init is.
fn mounts_of_init(t: &Contract<'_>, pod: &str) -> String {
    let mounts = Path::new("/proc")
        .join(init_of(t, pod).to_string())
        .join("mountinfo");
    std::fs::read_to_string(mounts).expect("the init's mounts")
}

/// A name is given again and again, at once or by several callers at a time: what has the name now is
/// never what is heard or removed of one that had it before.
pub async fn names_of_added_containers_are_given_again(t: &Contract<'_>) {
    if class(&*t.runtime) == RuntimeClass::Wasm {
        return;
    }
    let manifest = t.pod(
        "names",
        &[("a", "echo up; sleep 100"), ("x", "echo ran; sleep 100")],
    );
    let mut first = PodSpec::from_json(&manifest.to_string()).expect("the specification");
    let x = first.containers.pop().expect("two containers");
    let options = RunOptions::default;
    let pod = &t.runtime.run_pod(&first, options()).await.expect("run").id;
    for _ in 0..t.times(8) {
        let created = t.runtime.create_container(pod, &x, options()).await;
        created.expect("create");
        t.runtime.remove_container(pod, "x").await.expect("remove");
        let (one, other) = tokio::join!(
            t.runtime.create_container(pod, &x, options()),
            t.runtime.create_container(pod, &x, options()),
        );
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        let status = t.runtime.start_container(pod, "x").await.expect("start");
        assert!(runs(&status, "x"));
        assert_eq!(t.exec(pod, "x", &["true"]).await.code, 0);
        t.runtime
            .restart_container(pod, "x", SOON)
            .await
            .expect("run again");
        t.runtime.stop_container(pod, "x", SOON).await.expect("stop");
        t.runtime.remove_container(pod, "x").await.expect("remove");
    }
    for name in ["", "../a", "A", "a/b"] {
        let mut nameless = x.clone();
        nameless.name = name.to_owned();
        let refused = t.runtime.create_container(pod, &nameless, options()).await;
        assert!(matches!(refused, Err(Error::Spec(_))), "{name:?}: {refused:?}");
    }
    assert_eq!(t.exec(pod, "a", &["true"]).await.code, 0);
    t.delete(pod).await;
}
