//! The operations of `OciRuntime`, in and out of turn.

mod common;

use std::{fs, time::Duration};

use common::{Host, annotate, id, skipped};
use magik_oci::{CreateOptions, Error, ExecIo, ExecOptions, OciRuntime, Signal, Status, Stdio};
use oci_wasm::annotations::FUEL;
use serde_json::json;

/// A bundle of the tool that runs until it is killed.
fn endless(host: &Host, name: &str, what: &[&str], fuel: &str) -> std::path::PathBuf {
    let module = magikrun_test_images::tool_wasm().unwrap();
    host.bundle(name, &module, what, |spec| annotate(spec, FUEL, fuel))
}

#[tokio::test]
async fn goes_from_created_to_running_to_stopped_to_gone() {
    if skipped("goes_from_created_to_running_to_stopped_to_gone") {
        return;
    }
    let host = Host::new();
    let runtime = &host.runtime;
    let bundle = endless(&host, "c", &["sleep", "1000"], "off");
    let output = host.create("c", &bundle, None).await.unwrap();
    let id = id("c");
    assert_eq!(runtime.name(), "wasm");
    let state = runtime.state(&id).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Created, None));
    assert_eq!(state.bundle, bundle);
    assert_eq!(state.annotations[FUEL], "off");
    let again = host.create("c", &bundle, None).await.err().unwrap();
    assert!(matches!(again, Error::AlreadyExists(_)), "{again}");
    let early = runtime.delete(&id, false).await.unwrap_err();
    assert!(matches!(early, Error::WrongState { .. }), "{early}");

    runtime.start(&id).await.unwrap();
    assert_eq!(runtime.state(&id).await.unwrap().status, Status::Running);
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    assert!(runtime.processes(&id).await.unwrap().is_empty());
    let twice = runtime.start(&id).await.unwrap_err();
    assert!(matches!(twice, Error::WrongState { .. }), "{twice}");

    runtime.kill(&id, Signal::KILL, false).await.unwrap();
    let outcome = host.finish("c", output).await;
    assert_eq!((outcome.exit.code, outcome.exit.signal), (137, Some(9)));
    assert_eq!(runtime.state(&id).await.unwrap().status, Status::Stopped);
    let dead = runtime.kill(&id, Signal::KILL, false).await.unwrap_err();
    assert!(matches!(dead, Error::WrongState { .. }), "{dead}");
    runtime.delete(&id, false).await.unwrap();
    assert!(matches!(runtime.state(&id).await, Err(Error::NotFound(_))));
    assert!(matches!(
        runtime.delete(&id, false).await,
        Err(Error::NotFound(_))
    ));
    runtime.delete(&id, true).await.unwrap();
}

#[tokio::test]
async fn a_computing_program_is_killed_with_and_without_fuel() {
    if skipped("a_computing_program_is_killed_with_and_without_fuel") {
        return;
    }
    let host = Host::new();
    for (name, fuel) in [("fuel", "100000000000000"), ("epochs", "off")] {
        let bundle = endless(&host, name, &["spin"], fuel);
        let output = host.create(name, &bundle, None).await.unwrap();
        host.runtime.start(&id(name)).await.unwrap();
        host.runtime.kill(&id(name), Signal::KILL, false).await.unwrap();
        let outcome = host.finish(name, output).await;
        assert_eq!((outcome.exit.code, outcome.exit.reason), (137, None), "{name}");
    }
}

#[tokio::test]
async fn after_sigterm_and_its_grace_the_exit_code_is_143() {
    if skipped("after_sigterm_and_its_grace_the_exit_code_is_143") {
        return;
    }
    let host = Host::new();
    let bundle = endless(&host, "c", &["spin"], "off");
    let output = host.create("c", &bundle, None).await.unwrap();
    host.runtime.start(&id("c")).await.unwrap();
    host.runtime.kill(&id("c"), Signal::TERM, false).await.unwrap();
    assert_eq!(
        host.runtime.state(&id("c")).await.unwrap().status,
        Status::Running
    );
    host.runtime.kill(&id("c"), Signal::KILL, false).await.unwrap();
    let outcome = host.finish("c", output).await;
    assert_eq!((outcome.exit.code, outcome.exit.signal), (143, Some(15)));
}

#[tokio::test]
async fn a_program_that_waits_for_input_or_a_full_pipe_is_killed() {
    if skipped("a_program_that_waits_for_input_or_a_full_pipe_is_killed") {
        return;
    }
    let host = Host::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    let bundle = endless(&host, "cat", &["cat"], "off");
    let output = host.create("cat", &bundle, Some(reader.into())).await.unwrap();
    host.runtime.start(&id("cat")).await.unwrap();
    host.runtime.kill(&id("cat"), Signal::KILL, false).await.unwrap();
    assert_eq!(host.finish("cat", output).await.exit.code, 137);

    // Nobody reads what it writes.
    let (full, stdout) = std::io::pipe().unwrap();
    let bundle = endless(&host, "flood", &["flood"], "off");
    let stdio = Stdio {
        stdout: Some(stdout.into()),
        ..Stdio::default()
    };
    let flood = id("flood");
    host.runtime
        .create(&flood, &bundle, stdio, CreateOptions::default())
        .await
        .unwrap();
    host.runtime.start(&flood).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    host.runtime.kill(&flood, Signal::KILL, false).await.unwrap();
    assert_eq!(host.runtime.wait(&flood).await.unwrap().code, 137);
    drop(full);
}

#[tokio::test]
async fn a_created_container_is_killed_and_deleted_without_having_run() {
    if skipped("a_created_container_is_killed_and_deleted_without_having_run") {
        return;
    }
    let host = Host::new();
    let bundle = endless(&host, "c", &["hello"], "off");
    let output = host.create("c", &bundle, None).await.unwrap();
    host.runtime.kill(&id("c"), Signal::KILL, false).await.unwrap();
    let outcome = host.finish("c", output).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (137, ""));
    let output = host.create("d", &bundle, None).await.unwrap();
    host.runtime.delete(&id("d"), true).await.unwrap();
    assert!(matches!(
        host.runtime.state(&id("d")).await,
        Err(Error::NotFound(_))
    ));
    drop(output);
}

#[tokio::test]
async fn a_paused_program_uses_no_processor_and_goes_on_when_resumed() {
    if skipped("a_paused_program_uses_no_processor_and_goes_on_when_resumed") {
        return;
    }
    let host = Host::new();
    for (name, fuel) in [("fuel", "100000000000000"), ("epochs", "off")] {
        let runtime = &host.runtime;
        let bundle = endless(&host, name, &["spin"], fuel);
        let output = host.create(name, &bundle, None).await.unwrap();
        let id = id(name);
        runtime.start(&id).await.unwrap();
        let used = || async { runtime.stats(&id).await.unwrap().cpu.usage_ns };
        while used().await < 20_000_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        runtime.pause(&id).await.unwrap();
        assert_eq!(runtime.state(&id).await.unwrap().status, Status::Paused);
        assert!(matches!(runtime.pause(&id).await, Err(Error::WrongState { .. })));
        // It may still be on its way to its gate; then it stands.
        let (mut before, mut now) = (0, used().await);
        while before != now {
            tokio::time::sleep(Duration::from_millis(50)).await;
            (before, now) = (now, used().await);
        }
        runtime.resume(&id).await.unwrap();
        while used().await < now + 20_000_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        runtime.pause(&id).await.unwrap();
        runtime.kill(&id, Signal::KILL, false).await.unwrap();
        assert_eq!(host.finish(name, output).await.exit.code, 137);
    }
}

#[tokio::test]
async fn fuel_is_counted_while_a_program_runs() {
    if skipped("fuel_is_counted_while_a_program_runs") {
        return;
    }
    let host = Host::new();
    let bundle = endless(&host, "c", &["spin"], "100000000000000");
    let output = host.create("c", &bundle, None).await.unwrap();
    host.runtime.start(&id("c")).await.unwrap();
    while host.runtime.stats(&id("c")).await.unwrap().fuel < Some(20_000_000) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.runtime.kill(&id("c"), Signal::KILL, false).await.unwrap();
    host.finish("c", output).await;
    assert!(host.runtime.stats(&id("c")).await.unwrap().fuel > Some(20_000_000));
}

#[tokio::test]
async fn update_changes_the_memory_limit_of_a_running_program() {
    if skipped("update_changes_the_memory_limit_of_a_running_program") {
        return;
    }
    let host = Host::new();
    let bundle = endless(&host, "c", &["sleep", "1000"], "off");
    let output = host.create("c", &bundle, None).await.unwrap();
    let resources = serde_json::from_value(json!({"memory": {"limit": 12_345_678}})).unwrap();
    host.runtime.update(&id("c"), &resources).await.unwrap();
    let stats = host.runtime.stats(&id("c")).await.unwrap();
    assert_eq!(stats.memory.limit, Some(12_345_678));
    let resources = serde_json::from_value(json!({"cpu": {"quota": 1000}})).unwrap();
    let refused = host.runtime.update(&id("c"), &resources).await.unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    host.runtime.delete(&id("c"), true).await.unwrap();
    drop(output);
}

#[tokio::test]
async fn there_is_no_exec() {
    if skipped("there_is_no_exec") {
        return;
    }
    let host = Host::new();
    let bundle = endless(&host, "c", &["hello"], "off");
    let output = host.create("c", &bundle, None).await.unwrap();
    let process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh"]})).unwrap();
    let error = host
        .runtime
        .exec(
            &id("c"),
            &process,
            ExecIo::Pipes(Stdio::default()),
            ExecOptions::default(),
        )
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("exec is not supported: a WebAssembly"),
        "{error}"
    );
    host.runtime.delete(&id("c"), true).await.unwrap();
    drop(output);
}

#[tokio::test]
async fn what_only_processes_have_is_refused() {
    if skipped("what_only_processes_have_is_refused") {
        return;
    }
    let host = Host::new();
    let module = magikrun_test_images::hello_wasm().unwrap();
    let hooks = host.bundle("hooks", &module, &[], |spec| {
        spec["hooks"] = json!({"prestart": [{"path": "/bin/true"}]});
    });
    let error = host
        .create("hooks", &hooks, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("hooks"), "{error}");
    let tmpfs = host.bundle("tmpfs", &module, &[], |spec| {
        spec["mounts"] = json!([{"destination": "/data", "type": "tmpfs", "source": "tmpfs"}]);
    });
    let error = host
        .create("tmpfs", &tmpfs, None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/data") && error.contains("tmpfs"), "{error}");
    let mut options = CreateOptions::default();
    options.preserve_fds = 1;
    let plain = host.bundle("plain", &module, &[], |_| {});
    let error = host
        .runtime
        .create(&id("plain"), &plain, Stdio::default(), options)
        .await;
    assert!(matches!(error, Err(Error::Unsupported { .. })), "{error:?}");
}

#[tokio::test]
async fn a_bundle_that_is_none_is_an_error_that_names_it() {
    let host = Host::new();
    let empty = host.path("empty");
    fs::create_dir(&empty).unwrap();
    let error = host.create("c", &empty, None).await.err().unwrap();
    assert!(matches!(error, Error::InvalidBundle { .. }), "{error}");
    fs::write(empty.join("config.json"), vec![b' '; 1024 * 1024 + 1]).unwrap();
    let error = host.create("c", &empty, None).await.err().unwrap().to_string();
    assert!(error.contains("1048576"), "{error}");
    let bundle = host.bundle_of("missing", b"", &[], |spec| {
        spec["process"]["args"] = json!(["/none.wasm"]);
    });
    let error = host.create("c", &bundle, None).await.err().unwrap();
    assert!(matches!(error, Error::CannotExecute { .. }), "{error}");
}

#[tokio::test]
async fn a_hundred_containers_of_one_module_run_side_by_side() {
    if skipped("a_hundred_containers_of_one_module_run_side_by_side") {
        return;
    }
    let host = Host::new();
    let bundle = endless(&host, "all", &["sleep", "1000"], "off");
    let names: Vec<_> = (0..100).map(|i| id(&format!("c{i}"))).collect();
    for name in &names {
        host.runtime
            .create(name, &bundle, Stdio::default(), CreateOptions::default())
            .await
            .unwrap();
        host.runtime.start(name).await.unwrap();
    }
    assert_eq!(host.runtime.list().await.unwrap().len(), 100);
    for name in &names {
        host.runtime.delete(name, true).await.unwrap();
    }
    assert!(host.runtime.list().await.unwrap().is_empty());
}
