//! run, stop, delete.

use std::time::Duration;

use futures_util::future::join_all;
use magik_infra::status::{ContainerPhase, Phase};
use magik_pri::Error;
use serde_json::json;

use super::{Contract, class, exit_of, not_found, share_directory};

/// `run_pod` returns with every container started.
pub async fn runs_every_container_before_it_returns(t: &Contract<'_>) {
    let status = t
        .run(
            "web",
            &[("a", "sleep 100"), ("b", "sleep 100"), ("c", "sleep 100")],
        )
        .await
        .expect("run");
    assert_eq!(
        (status.name.as_str(), status.namespace.as_str(), status.phase),
        ("web", "default", Phase::Running)
    );
    assert_eq!(status.runtime_class, class(&*t.runtime).as_str());
    for c in &status.containers {
        assert!(matches!(c.state, ContainerPhase::Running { .. }), "{c:?}");
    }
    let again = t.runtime.pod_status(&status.id).await.expect("status");
    assert_eq!(again, status);
    assert_eq!(t.runtime.list_pods().await.expect("list"), [status]);
    t.delete("web").await;
}

/// Localhost, hostname and volumes are the pod's; root file systems and processes are each container's own.
pub async fn containers_of_a_pod_share_network_hostname_and_volumes(t: &Contract<'_>) {
    let mut manifest = t.pod(
        "sharing",
        &[
            (
                "server",
                "touch /mine; hostname; echo page > /shared/index.html; touch /shared/written; exec httpd -f -p 8080 -h /shared",
            ),
            (
                "client",
                "while ! test -e /shared/written; do sleep 0.05; done; \
                 cat /shared/index.html; hostname; test -e /mine || echo apart; echo done; sleep 100",
            ),
        ],
    );
    share_directory(&mut manifest);
    manifest["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    let pod = t.run_manifest(&manifest).await.expect("run").id;
    t.until_logged(&pod, "server", "sharing\n").await;
    let seen = t.until_logged(&pod, "client", "done\n").await;
    assert_eq!(seen, "page\nsharing\napart\ndone\n");
    let answer = t.fetch(&pod, 8080, "/index.html").await;
    assert!(answer.ends_with("page\n"), "{answer}");
    if t.kit.processes {
        let fetched = t
            .exec(
                &pod,
                "client",
                &["wget", "-q", "-O", "-", "http://localhost:8080/"],
            )
            .await;
        assert_eq!(
            (fetched.code, fetched.stdout.as_str()),
            (0, "page\n"),
            "{fetched:?}"
        );
        let processes = t.exec(&pod, "client", &["ps"]).await.stdout;
        assert!(!processes.contains("httpd"), "processes are apart: {processes}");
    }
    t.delete(&pod).await;
}

/// Beside their own, containers find the names that the pod gives to addresses.
pub async fn containers_find_the_names_of_host_aliases(t: &Contract<'_>) {
    let mut manifest = t.pod("named", &[("c", "cat /etc/hosts; echo done; sleep 100")]);
    manifest["spec"]["hostname"] = json!("me");
    manifest["spec"]["hostAliases"] = json!([
        {"ip": "192.0.2.7", "hostnames": ["db", "db.example.com"]},
        {"ip": "2001:db8::7", "hostnames": ["db6"]},
    ]);
    if !t.kit.processes {
        let refused = t
            .run_manifest(&manifest)
            .await
            .expect_err("no such file")
            .to_string();
        assert!(refused.contains("spec.hostAliases"), "{refused}");
        return;
    }
    let pod = t.run_manifest(&manifest).await.expect("run").id;
    let hosts = t.until_logged(&pod, "c", "done\n").await;
    for line in [
        "127.0.0.1\tlocalhost\n",
        "127.0.1.1\tme\n",
        "192.0.2.7\tdb db.example.com\n",
        "2001:db8::7\tdb6\n",
    ] {
        assert!(hosts.contains(line), "{line:?} in {hosts:?}");
    }
    t.delete(&pod).await;
}

/// Each init container ends before the next starts, all before the first app container.
pub async fn init_containers_run_one_after_the_other_before_the_rest(t: &Contract<'_>) {
    let mut manifest = t.pod("ordered", &[("main", "cat /shared/log; sleep 100")]);
    let step = |n: u32| {
        t.container(
            &format!("init{n}"),
            &format!("echo begin{n} >> /shared/log; sleep 0.1; echo end{n} >> /shared/log"),
        )
    };
    manifest["spec"]["initContainers"] = json!([step(1), step(2), step(3)]);
    share_directory(&mut manifest);
    let status = t.run_manifest(&manifest).await.expect("run");
    for n in 1..=3 {
        assert_eq!(exit_of(&status, &format!("init{n}")).code, 0);
    }
    let log = t.until_logged(&status.id, "main", "end3\n").await;
    assert_eq!(log, "begin1\nend1\nbegin2\nend2\nbegin3\nend3\n");
    t.delete(&status.id).await;
}

/// `wait_pod` answers when nothing runs any more, not before.
pub async fn a_pod_is_over_when_its_last_container_is(t: &Contract<'_>) {
    let pod = t
        .run("job", &[("short", "exit 0"), ("long", "sleep 0.5")])
        .await
        .expect("run")
        .id;
    let status = t.runtime.wait_pod(&pod).await.expect("wait");
    assert_eq!((status.phase, status.exit_code()), (Phase::Succeeded, 0));
    assert_eq!(
        (exit_of(&status, "short").code, exit_of(&status, "long").code),
        (0, 0)
    );
    assert!(status.finished_at.is_some());
    // Ended by itself: nothing to force.
    t.runtime.delete_pod(&pod, false).await.expect("delete");
    assert!(not_found(&t.runtime.wait_pod(&pod).await));
}

/// Of several that failed, the first in the manifest's order counts, whichever ended first.
pub async fn exit_code_is_that_of_the_first_container_that_failed(t: &Contract<'_>) {
    let pod = t
        .run(
            "job",
            &[
                ("good", "exit 0"),
                ("late", "sleep 0.3; exit 8"),
                ("early", "exit 7"),
            ],
        )
        .await
        .expect("run")
        .id;
    let status = t.runtime.wait_pod(&pod).await.expect("wait");
    assert_eq!((status.phase, status.exit_code()), (Phase::Failed, 8));
    assert_eq!(
        (exit_of(&status, "late").code, exit_of(&status, "early").code),
        (8, 7)
    );
    t.delete(&pod).await;
}

/// SIGTERM first; SIGKILL for those that stay.
pub async fn stop_lets_programs_end_and_kills_the_others_after_the_grace_period(t: &Contract<'_>) {
    let (polite, stubborn) = (
        t.kit.until_term(3),
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    );
    let pod = t
        .run("mixed", &[("polite", &polite), ("stubborn", stubborn)])
        .await
        .expect("run")
        .id;
    t.until_logged(&pod, "stubborn", "ready").await;
    let status = t
        .runtime
        .stop_pod(&pod, Some(Duration::from_millis(500)))
        .await
        .expect("stop");
    let ended = |container| {
        let exit = exit_of(&status, container);
        (exit.code, exit.signal)
    };
    let (polite, stubborn) = (t.kit.exit_of_until_term(3), t.kit.exit_after_grace());
    assert_eq!(ended("polite"), (polite.code, polite.signal));
    assert_eq!(ended("stubborn"), (stubborn.code, stubborn.signal));
    assert!(status.phase.is_final());
    assert_eq!(
        t.runtime.pod_status(&pod).await.expect("status"),
        status,
        "the final status stays"
    );
    t.runtime
        .delete_pod(&pod, false)
        .await
        .expect("a stopped pod needs no force");
}

/// `stop_pod` is idempotent, and does not change a pod that ended by itself.
pub async fn stopping_twice_gives_the_same_answer(t: &Contract<'_>) {
    let pod = t
        .run("twice", &[("c", &t.kit.until_term(0))])
        .await
        .expect("run")
        .id;
    let first = t.runtime.stop_pod(&pod, None).await.expect("stop");
    let second = t.runtime.stop_pod(&pod, None).await.expect("stop again");
    assert_eq!(first, second);
    t.runtime.delete_pod(&pod, false).await.expect("delete");
    assert!(not_found(&t.runtime.stop_pod(&pod, None).await));

    let pod = t.run("over", &[("c", "exit 5")]).await.expect("run").id;
    let over = t.runtime.wait_pod(&pod).await.expect("wait");
    assert_eq!(t.runtime.stop_pod(&pod, None).await.expect("stop"), over);
    t.runtime.delete_pod(&pod, false).await.expect("delete");
}

/// Without `force`, a running pod stays as it is.
pub async fn a_running_pod_is_deleted_only_by_force(t: &Contract<'_>) {
    let pod = t.run("running", &[("c", "sleep 100")]).await.expect("run").id;
    let refused = t.runtime.delete_pod(&pod, false).await;
    assert!(matches!(refused, Err(Error::WrongState { .. })), "{refused:?}");
    assert_eq!(
        t.runtime.pod_status(&pod).await.expect("status").phase,
        Phase::Running
    );
    t.runtime.delete_pod(&pod, true).await.expect("delete");
    assert!(not_found(&t.runtime.pod_status(&pod).await));
}

/// With `force`, a pod that is not there is what was asked for.
pub async fn deleting_twice_is_no_error_with_force(t: &Contract<'_>) {
    let pod = t.run("gone", &[("c", "sleep 100")]).await.expect("run").id;
    t.delete(&pod).await;
    t.delete(&pod).await;
    t.delete("never-was").await;
    assert!(not_found(&t.runtime.delete_pod(&pod, false).await));
}

/// Also after a pod that was killed while it ran.
pub async fn a_deleted_pods_name_is_free_again(t: &Contract<'_>) {
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..3 {
        assert!(
            ids.insert(t.run("again", &[("c", "sleep 100")]).await.expect("run").id),
            "ids are not used again"
        );
        t.delete("again").await;
    }
}

/// The same name in another namespace is another pod.
pub async fn a_name_belongs_to_one_pod_per_namespace(t: &Contract<'_>) {
    let here = t.run("same", &[("c", "sleep 100")]).await.expect("run").id;
    let mut manifest = t.pod("same", &[("c", "sleep 100")]);
    manifest["metadata"]["namespace"] = json!("other");
    let there = t
        .run_manifest(&manifest)
        .await
        .expect("run in the other namespace")
        .id;
    assert_ne!(here, there);
    assert_eq!(
        t.runtime.pod_status("other/same").await.expect("status").id,
        there
    );
    assert_eq!(
        t.runtime.pod_status("default/same").await.expect("status").id,
        here
    );
    t.delete("other/same").await;
    t.delete("default/same").await;
}

/// The others are told who has the name.
pub async fn two_callers_racing_for_a_name_have_one_winner(t: &Contract<'_>) {
    for _ in 0..t.times(5) {
        let runs = join_all((0..4).map(|_| t.run("raced", &[("c", "sleep 100")]))).await;
        let winners: Vec<_> = runs.iter().flatten().collect();
        assert_eq!(winners.len(), 1, "{runs:?}");
        for lost in runs.iter().filter_map(|r| r.as_ref().err()) {
            assert!(
                matches!(lost, Error::NameInUse { id, .. } if *id == winners[0].id),
                "{lost:?}"
            );
        }
        t.delete("raced").await;
    }
}

/// One does the work, all get the same answer.
pub async fn two_callers_stopping_and_deleting_one_pod_agree(t: &Contract<'_>) {
    for _ in 0..t.times(5) {
        let pod = t
            .run("raced", &[("a", &t.kit.until_term(1)), ("b", "sleep 100")])
            .await
            .expect("run")
            .id;
        let grace = Some(Duration::from_millis(200));
        let stops = join_all((0..3).map(|_| t.runtime.stop_pod(&pod, grace))).await;
        let first = stops[0].as_ref().expect("stop");
        assert!(
            stops.iter().all(|s| s.as_ref().is_ok_and(|s| s == first)),
            "{stops:?}"
        );
        let deletes = join_all((0..3).map(|_| t.runtime.delete_pod(&pod, true))).await;
        assert!(deletes.iter().all(Result::is_ok), "{deletes:?}");

        let pod = t.run("raced", &[("a", "sleep 100")]).await.expect("run").id;
        let (stopped, deleted) =
            tokio::join!(t.runtime.stop_pod(&pod, grace), t.runtime.delete_pod(&pod, true));
        deleted.expect("delete during stop");
        assert!(stopped.is_ok() || not_found(&stopped), "{stopped:?}");
        assert!(not_found(&t.runtime.pod_status(&pod).await));
    }
}

/// Pods do not get in each other's way.
pub async fn many_pods_live_and_die_at_once(t: &Contract<'_>) {
    let names: Vec<String> = (0..t.times(8)).map(|n| format!("pod{n}")).collect();
    let lives = names.iter().map(|name| async move {
        let pod = t
            .run(name, &[("a", "hostname; sleep 100"), ("b", "sleep 100")])
            .await
            .expect("run")
            .id;
        assert_eq!(t.until_logged(&pod, "a", "\n").await, format!("{name}\n"));
        t.delete(&pod).await;
    });
    join_all(lives).await;
    assert_eq!(t.runtime.list_pods().await.expect("list"), []);
}

/// Whenever the caller loses interest.
pub async fn a_dropped_run_leaves_nothing(t: &Contract<'_>) {
    let mut manifest = t.pod("dropped", &[("c", "sleep 100")]);
    manifest["spec"]["initContainers"] = json!([t.container("init", "sleep 100")]);
    let before = t.census().await;
    for milliseconds in [0, 1, 3, 10, 30, 100, 300] {
        let run = tokio::time::timeout(Duration::from_millis(milliseconds), t.run_manifest(&manifest));
        assert!(run.await.is_err(), "the init container sleeps on");
        let pods = t.runtime.list_pods().await.expect("list");
        assert!(pods.is_empty(), "{pods:?}");
        before.assert_same(&format!("after run_pod was dropped after {milliseconds} ms"));
    }
}

/// Nothing grows with the number of pods that were: not what the census counts, and not this process.
pub async fn two_hundred_lives_leak_nothing(t: &Contract<'_>) {
    let lives = std::env::var("MAGIKRUN_TEST_CYCLES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(t.times(200));
    let before = t.census().await;
    let mut settled = 0;
    for life in 0..lives {
        let pod = t
            .run("again", &[("a", "sleep 100"), ("b", "exit 0")])
            .await
            .expect("run")
            .id;
        if life % 4 == 0 {
            t.runtime
                .stop_pod(&pod, Some(Duration::ZERO))
                .await
                .expect("stop");
        }
        t.delete(&pod).await;
        if life == lives / 4 {
            settled = resident_kib();
        }
    }
    before.assert_same("after many lives");
    let grown = resident_kib().saturating_sub(settled);
    assert!(
        grown < 8 << 10,
        "this process grew by {grown} KiB in the last three quarters of {lives} lives"
    );
}

/// This process's resident memory.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// `activeDeadlineSeconds`.
pub async fn a_deadline_ends_a_pod(t: &Contract<'_>) {
    let mut manifest = t.pod("late", &[("c", "sleep 100")]);
    manifest["spec"]["activeDeadlineSeconds"] = json!(t.seconds(1));
    let pod = t.run_manifest(&manifest).await.expect("run").id;
    let status = t.runtime.wait_pod(&pod).await.expect("wait");
    assert_eq!(
        (
            status.phase,
            status.reason.map(magik_infra::status::PodReason::as_str)
        ),
        (Phase::Failed, Some("DeadlineExceeded"))
    );
    t.runtime.delete_pod(&pod, false).await.expect("delete");
}

/// And by nothing else.
pub async fn a_pod_is_addressed_by_name_id_and_start_of_id(t: &Contract<'_>) {
    let pod = t.run("found", &[("c", "sleep 100")]).await.expect("run").id;
    for address in ["found", "default/found", &pod, &pod[..pod.len() - 1]] {
        assert_eq!(t.runtime.pod_status(address).await.expect(address).id, pod);
    }
    for address in [
        "",
        ".",
        "..",
        "../found",
        "other/found",
        "foun",
        "/",
        "*",
        &format!("{pod}x"),
    ] {
        let status = t.runtime.pod_status(address).await;
        assert!(status.is_err(), "{address:?}: {status:?}");
        let deleted = t.runtime.delete_pod(address, false).await;
        assert!(deleted.is_err(), "{address:?}");
    }
    t.delete("found").await;
}
