//! Running, looking, stopping, deleting.

use std::time::Duration;

use magik_pri::{
    Error, PodRuntime, Pods, RunOptions,
    status::{ContainerPhase, Phase},
};
use serde_json::json;

use crate::support::{Test, World, test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    test!(a_pod_runs_logs_execs_stops_and_is_deleted),
    test!(init_containers_run_first_and_share_volumes),
    test!(containers_share_a_network_and_only_that),
    test!(the_hosts_network_and_one_pid_namespace_on_request),
    test!(security_limits_and_environment_are_applied),
    test!(a_pod_that_is_over_at_once_has_succeeded),
    test!(pods_are_found_by_id_start_of_id_and_name),
    test!(two_callers_that_stop_or_delete_get_the_same_answer),
    test!(logs_and_events_are_followed_to_the_end),
    test!(a_port_of_the_pod_is_reached_through_its_init),
    test!(what_works_on_pods_needs_no_backend),
];

async fn a_pod_runs_logs_execs_stops_and_is_deleted(w: &World) {
    let spec = w.scripts(
        "web",
        &[
            ("a", "echo hello; exec sleep 1000"),
            ("b", "echo err >&2; exec sleep 1000"),
        ],
    );
    let status = w.run(&spec).await.unwrap();
    assert_eq!(status.phase, Phase::Running);
    assert_eq!(w.log_until("web", "a", "\n").await, "hello\n");
    assert_eq!(w.log_until("web", "b", "\n").await, "err\n");
    assert_eq!(
        w.exec("web", "a", "hostname; exit 7").await,
        ("web\n".to_owned(), 7)
    );
    let stats = w.runtime.stats("web").await.unwrap();
    assert_eq!(stats.keys().collect::<Vec<_>>(), ["a", "b"]);
    let error = w.runtime.delete_pod("web", false).await.unwrap_err();
    assert!(matches!(error, Error::WrongState { .. }), "{error}");
    let status = w.runtime.stop_pod("web", None).await.unwrap();
    assert!(status.phase.is_final());
    assert_eq!(w.runtime.stop_pod("web", None).await.unwrap(), status);
    assert_eq!(w.log("web", "b").await, "err\n");
    w.runtime.delete_pod("web", false).await.unwrap();
    assert!(w.runtime.list_pods().await.unwrap().is_empty());
    assert!(matches!(
        w.runtime.pod_status("web").await,
        Err(Error::NotFound(_))
    ));
}

async fn init_containers_run_first_and_share_volumes(w: &World) {
    std::fs::write(w.path("from-host"), "host\n").unwrap();
    let with = |mut container: serde_json::Value, mounts: serde_json::Value| {
        container["volumeMounts"] = mounts;
        container
    };
    let spec = w.pod("volumes", &json!({
        "initContainers": [
            with(w.container("one", "echo one > /data/one"), json!([{"name": "data", "mountPath": "/data"}])),
            with(w.container("two", "cat /data/one > /mem/two"), json!([{"name": "data", "mountPath": "/data"}, {"name": "mem", "mountPath": "/mem"}])),
        ],
        "containers": [with(
            w.container("app", "cat /mem/two /host /etc/hostname; stat -c %a /data /mem; touch /data/x 2>&1; df -k /mem | tail -n 1 | awk '{print $2}'; exec sleep 1000"),
            json!([
                {"name": "data", "mountPath": "/data", "readOnly": true},
                {"name": "mem", "mountPath": "/mem"},
                {"name": "file", "mountPath": "/host"},
            ]),
        )],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "file", "hostPath": {"path": w.path("from-host"), "type": "File"}},
        ],
    }));
    let status = w.run(&spec).await.unwrap();
    assert!(
        status
            .init_containers
            .iter()
            .all(|c| matches!(c.state, ContainerPhase::Exited { exit, .. } if exit.code == 0))
    );
    let log = w.log_until("volumes", "app", "1024\n").await;
    assert!(log.starts_with("one\nhost\nvolumes\n777\n777\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    w.runtime.delete_pod("volumes", true).await.unwrap();
    assert_eq!(std::fs::read_to_string(w.path("from-host")).unwrap(), "host\n");
}

async fn containers_share_a_network_and_only_that(w: &World) {
    let spec = w.scripts(
        "net",
        &[
            ("server", "while true; do echo answer | nc -l -p 5000; done"),
            (
                "client",
                "until nc 127.0.0.1 5000 </dev/null | grep answer; do sleep 0.05; done; exec sleep 1000",
            ),
        ],
    );
    w.run(&spec).await.unwrap();
    w.log_until("net", "client", "answer\n").await;
    // Two pods can use one port; a container sees its own processes alone, and no interface of the host.
    let (text, _) = w
        .exec("net", "client", "ls /sys/class/net; ps | grep -c 'nc -[l]'")
        .await;
    assert_eq!(text, "lo\n0\n");
    assert_eq!(w.exec("net", "client", "cat /proc/1/comm").await.0, "sleep\n");
}

async fn the_hosts_network_and_one_pid_namespace_on_request(w: &World) {
    let spec = w.pod(
        "host",
        &json!({
            "hostNetwork": true,
            "shareProcessNamespace": true,
            "hostname": "other",
            "containers": [w.container("a", "exec sleep 1111"), w.container("b", "exec sleep 2222")],
        }),
    );
    w.run(&spec).await.unwrap();
    let host: Vec<_> = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    let (interfaces, _) = w.exec("host", "a", "ls /sys/class/net").await;
    assert_eq!(interfaces.lines().count(), host.len(), "{interfaces}");
    assert_eq!(
        w.exec("host", "a", "ps | grep -c 'sleep [2]222'; hostname")
            .await
            .0,
        "1\nother\n"
    );
}

async fn security_limits_and_environment_are_applied(w: &World) {
    let script = "id -u; id -g; echo $GREETING; pwd; touch /x 2>/dev/null || echo read-only; grep CapEff /proc/self/status; exec sleep 1000";
    let mut container = w.container("c", script);
    container["env"] =
        json!([{"name": "WHO", "value": "world"}, {"name": "GREETING", "value": "hello $(WHO)"}]);
    container["workingDir"] = json!("/tmp/deep");
    container["securityContext"] = json!({
        "runAsUser": 1234, "runAsGroup": 4321, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    container["resources"] =
        json!({"limits": {"memory": "32Mi", "cpu": "500m"}, "requests": {"cpu": "250m"}});
    w.run(&w.pod("secure", &json!({"containers": [container]})))
        .await
        .unwrap();
    let log = w.log_until("secure", "c", "CapEff").await;
    assert!(log.starts_with("1234\n4321\nhello world\n/tmp/deep\n"), "{log}");
    assert!(log.contains("read-only\nCapEff:\t0000000000000000\n"), "{log}");
    let stats = w.runtime.stats("secure").await.unwrap();
    assert_eq!(stats["c"].memory.limit, Some(32 << 20));
}

async fn a_pod_that_is_over_at_once_has_succeeded(w: &World) {
    for i in 0..5 {
        let name = format!("short-{i}");
        w.run(&w.scripts(&name, &[("c", "exit 0")])).await.unwrap();
        let status = w.runtime.wait_pod(&name).await.unwrap();
        assert_eq!((status.phase, status.exit_code()), (Phase::Succeeded, 0));
        w.runtime.delete_pod(&name, false).await.unwrap();
    }
    w.run(&w.scripts("fails", &[("c", "exit 3")])).await.unwrap();
    let status = w.runtime.wait_pod("fails").await.unwrap();
    assert_eq!((status.phase, status.exit_code()), (Phase::Failed, 3));
}

async fn pods_are_found_by_id_start_of_id_and_name(w: &World) {
    let status = w
        .run(&w.scripts("web", &[("c", "exec sleep 1000")]))
        .await
        .unwrap();
    for text in [status.id.as_str(), &status.id[..6], "web", "default/web"] {
        assert_eq!(w.runtime.pod_status(text).await.unwrap().id, status.id, "{text}");
    }
    for text in [
        "",
        "we",
        "other/web",
        "default/",
        "/web",
        "../web",
        "default/../web",
        "x",
    ] {
        let error = w.runtime.pod_status(text).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{text}: {error}");
    }
    let error = w.run(&w.scripts("web", &[("c", "true")])).await.unwrap_err();
    assert!(
        matches!(&error, Error::NameInUse { id, .. } if *id == status.id),
        "{error}"
    );
    assert_eq!(w.another_runtime().list_pods().await.unwrap().len(), 1);
}

async fn two_callers_that_stop_or_delete_get_the_same_answer(w: &World) {
    w.run(&w.scripts("web", &[("c", "trap 'exit 0' TERM; sleep 1000 & wait")]))
        .await
        .unwrap();
    let other = w.another_runtime();
    let (a, b) = tokio::join!(w.runtime.stop_pod("web", None), other.stop_pod("web", None));
    assert_eq!(a.unwrap(), b.unwrap());
    w.run(&w.scripts("two", &[("c", "exec sleep 1000")]))
        .await
        .unwrap();
    let (a, b) = tokio::join!(w.runtime.delete_pod("two", true), other.delete_pod("two", true));
    a.unwrap();
    b.unwrap();
    w.runtime.delete_pod("two", true).await.unwrap();
    assert!(matches!(
        w.runtime.delete_pod("two", false).await,
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        w.runtime.stop_pod("two", None).await,
        Err(Error::NotFound(_))
    ));
}

async fn logs_and_events_are_followed_to_the_end(w: &World) {
    w.run(&w.scripts("web", &[("c", "for i in 1 2 3; do echo $i; sleep 0.1; done")]))
        .await
        .unwrap();
    let options = magik_pri::LogOptions {
        follow: true,
        ..magik_pri::LogOptions::default()
    };
    let mut log = w.runtime.logs("web", options).await.unwrap();
    let mut events = w.runtime.events("web", true).await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = log.next().await.unwrap() {
        text.extend(chunk.data);
    }
    assert_eq!(text, b"1\n2\n3\n");
    let mut kinds = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        kinds.push(event.kind.to_string());
    }
    assert!(
        kinds.contains(&"pod.ready".to_owned()) && kinds.contains(&"container.exited".to_owned()),
        "{kinds:?}"
    );
    let error = w
        .runtime
        .logs(
            "web",
            magik_pri::LogOptions {
                container: Some("x".into()),
                ..Default::default()
            },
        )
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Container { .. }), "{error}");
}

async fn a_port_of_the_pod_is_reached_through_its_init(w: &World) {
    w.run(&w.scripts("web", &[("c", "while true; do nc -l -p 5000 -e cat; done")]))
        .await
        .unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut forward = w.runtime.port_forward("web", 5000).await.unwrap();
        let _ = forward.writer.write(b"ping").await;
        match forward.reader.next().await {
            Ok(Some(bytes)) => {
                assert_eq!(bytes, b"ping");
                return;
            }
            // Nobody listens yet.
            other => assert!(tokio::time::Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn what_works_on_pods_needs_no_backend(w: &World) {
    let spec = w.scripts("web", &[("a", "echo hello; exec sleep 1000")]);
    let none = Pods::new(w.roots());
    let error = none.run_pod(&spec, RunOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let status = w.run(&spec).await.unwrap();
    assert_eq!(none.list_pods().await.unwrap(), [status]);
    assert_eq!(w.exec_by(&none, "web", "a", "exit 7").await.1, 7);
    let status = none.stop_pod("web", None).await.unwrap();
    assert_eq!(
        (status.phase.is_final(), status.runtime_class.as_str()),
        (true, "native")
    );
    none.delete_pod("web", false).await.unwrap();
    w.assert_empty();
}
