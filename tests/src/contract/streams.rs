//! logs, exec, stats, events, port-forward.

use std::time::Duration;

use magik_pri::{Error, ExecRequest, LogOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Contract, Input, Ran, log_of};

fn request(container: &str, args: &[&str]) -> ExecRequest {
    ExecRequest::new(container, args.iter().copied())
}

/// Also a last line without its end.
pub async fn logs_keep_both_streams_apart_and_outlive_the_container(t: &Contract<'_>) {
    let script = "echo out1; echo err1 >&2; echo out2; printf err2 >&2";
    let pod = t
        .run("talk", &[("c", script), ("quiet", "sleep 100")])
        .await
        .expect("run")
        .id;
    let ended = t
        .logs(
            &pod,
            LogOptions {
                follow: true,
                ..log_of("c")
            },
        )
        .await;
    assert_eq!(
        (ended.0.as_str(), ended.1.trim_end()),
        ("out1\nout2\n", "err1\nerr2")
    );
    assert_eq!(
        t.logs(&pod, log_of("quiet")).await,
        (String::new(), String::new())
    );
    t.runtime
        .stop_pod(&pod, Some(Duration::ZERO))
        .await
        .expect("stop");
    assert_eq!(
        t.logs(&pod, log_of("c")).await,
        ended,
        "the log of a pod that is over"
    );
    let unnamed = t.runtime.logs(&pod, LogOptions::default()).await;
    assert!(
        matches!(unnamed, Err(Error::Container { .. })),
        "which of two containers?"
    );
    t.delete(&pod).await;
}

/// What is written later still comes, and then the end.
pub async fn following_a_log_ends_with_its_container(t: &Contract<'_>) {
    let script = "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done";
    let pod = t
        .run("counting", &[("c", script), ("other", "sleep 100")])
        .await
        .expect("run")
        .id;
    let followed = t
        .logs(
            &pod,
            LogOptions {
                follow: true,
                ..log_of("c")
            },
        )
        .await;
    assert_eq!(followed.0, "1\n2\n3\n4\n5\n");
    t.delete(&pod).await;
}

/// Times are those of RFC 3339.
pub async fn logs_are_cut_by_tail_and_carry_times_when_asked(t: &Contract<'_>) {
    let pod = t.run("lines", &[("c", "seq 1 1000")]).await.expect("run").id;
    t.runtime.wait_pod(&pod).await.expect("wait");
    let all = t.logs(&pod, log_of("c")).await.0;
    assert_eq!((all.lines().count(), all.lines().last()), (1000, Some("1000")));
    assert_eq!(
        t.logs(
            &pod,
            LogOptions {
                tail: Some(3),
                ..log_of("c")
            }
        )
        .await
        .0,
        "998\n999\n1000\n"
    );
    assert_eq!(
        t.logs(
            &pod,
            LogOptions {
                tail: Some(0),
                ..log_of("c")
            }
        )
        .await
        .0,
        ""
    );
    let stamped = t
        .logs(
            &pod,
            LogOptions {
                tail: Some(1),
                timestamps: true,
                ..log_of("c")
            },
        )
        .await
        .0;
    let (time, text) = stamped.split_once(' ').expect("time and text");
    assert_eq!(text, "1000\n");
    let time: jiff::Timestamp = time.parse().expect("an RFC 3339 time");
    let later = time
        .checked_add(jiff::SignedDuration::from_secs(1))
        .expect("a later time");
    assert_eq!(
        t.logs(
            &pod,
            LogOptions {
                since: Some(later),
                ..log_of("c")
            }
        )
        .await
        .0,
        ""
    );
    t.delete(&pod).await;
}

/// Where programs are no processes, exec says so.
async fn exec_is_refused(t: &Contract<'_>) {
    let pod = t.run("target", &[("c", "sleep 100")]).await.expect("run").id;
    let refused = t.runtime.exec(&pod, request("c", &["true"])).await;
    let said = refused.expect_err("there is no exec").to_string();
    assert!(
        said.contains("exec") && said.contains("not supported") && !said.contains('\n'),
        "{said}"
    );
    t.delete(&pod).await;
}

/// 128 + n after a signal.
pub async fn exec_passes_exit_codes_signals_and_both_streams(t: &Contract<'_>) {
    if !t.kit.processes {
        return exec_is_refused(t).await;
    }
    let pod = t.run("target", &[("c", "sleep 100")]).await.expect("run").id;
    let ran = t
        .exec(&pod, "c", &["sh", "-c", "echo out; echo err >&2; exit 42"])
        .await;
    assert_eq!(
        ran,
        Ran {
            code: 42,
            stdout: "out\n".into(),
            stderr: "err\n".into()
        }
    );
    assert_eq!(t.exec(&pod, "c", &["true"]).await, Ran::default());
    assert_eq!(t.exec(&pod, "c", &["sh", "-c", "kill -KILL $$"]).await.code, 137);
    let large = t.exec(&pod, "c", &["sh", "-c", "seq 1 200000"]).await.stdout;
    assert_eq!(
        (large.lines().count(), large.lines().last()),
        (200_000, Some("200000")),
        "nothing is lost"
    );
    let several = futures_util::future::join_all((0..8).map(|n| async move {
        let script = format!("sleep 0.1; exit {n}");
        t.exec("target", "c", &["sh", "-c", &script]).await.code
    }));
    assert_eq!(several.await, (0..8).collect::<Vec<i32>>(), "at the same time");
    t.delete(&pod).await;
}

/// What the request says, in the program's own terms.
pub async fn exec_passes_input_environment_directory_and_user(t: &Contract<'_>) {
    if !t.kit.processes {
        return exec_is_refused(t).await;
    }
    let pod = t.run("target", &[("c", "sleep 100")]).await.expect("run").id;
    let text = "x".repeat(300_000);
    let input = vec![Input::Stdin(text.clone().into_bytes())];
    let counted = t
        .exec_with(
            &pod,
            ExecRequest {
                stdin: true,
                ..request("c", &["wc", "-c"])
            },
            input,
        )
        .await;
    assert_eq!(counted.stdout.trim(), text.len().to_string());
    let empty = t.exec(&pod, "c", &["cat"]).await;
    assert_eq!(
        empty,
        Ran::default(),
        "without stdin a program reads an empty input"
    );
    let with = ExecRequest {
        env: vec!["GREETING=hello".to_owned()],
        cwd: Some("/tmp".into()),
        user: Some("65534:33".into()),
        ..request("c", &["sh", "-c", "echo $GREETING $PWD $(id -u) $(id -g)"])
    };
    assert_eq!(
        t.exec_with(&pod, with, vec![]).await.stdout,
        "hello /tmp 65534 33\n"
    );
    t.delete(&pod).await;
}

/// And a change of its size.
pub async fn exec_gives_a_terminal_of_the_size_asked_for(t: &Contract<'_>) {
    if !t.kit.processes {
        return exec_is_refused(t).await;
    }
    let pod = t.run("target", &[("c", "sleep 100")]).await.expect("run").id;
    let size = Some((7, 33));
    let ran = t
        .exec_with(
            &pod,
            ExecRequest {
                tty: true,
                size,
                ..request("c", &["sh", "-c", "test -t 0 && stty size"])
            },
            vec![],
        )
        .await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "7 33\r\n"), "{ran:?}");
    // The program reads a line after the size has changed, and shows the new one.
    let resized = ExecRequest {
        tty: true,
        size,
        stdin: true,
        ..request("c", &["sh", "-c", "stty -echo; read line; stty size; exit 9"])
    };
    let input = vec![Input::Resize(50, 132), Input::Stdin(b"go\n".to_vec())];
    let ran = t.exec_with(&pod, resized, input).await;
    assert_eq!(ran.code, 9);
    assert!(ran.stdout.ends_with("50 132\r\n"), "{ran:?}");
    t.delete(&pod).await;
}

/// In words, or as the shell's exit codes.
pub async fn exec_says_when_a_program_or_a_container_is_not_there(t: &Contract<'_>) {
    let pod = t
        .run("target", &[("c", "sleep 100"), ("over", "exit 0")])
        .await
        .expect("run")
        .id;
    for program in ["no-such-program", "/etc/passwd"] {
        let refused = t.runtime.exec(&pod, request("c", &[program])).await;
        let said = refused.expect_err("a program that is none").to_string();
        assert!(said.contains(program) || !t.kit.processes, "{said}");
    }
    let unknown = t.runtime.exec(&pod, request("d", &["true"])).await;
    assert!(
        matches!(unknown, Err(Error::Container { .. } | Error::Control { .. })),
        "{unknown:?}"
    );
    t.logs(
        &pod,
        LogOptions {
            follow: true,
            ..log_of("over")
        },
    )
    .await;
    let over = t.runtime.exec(&pod, request("over", &["true"])).await;
    let refused = match over {
        Err(_) => true,
        Ok(mut session) => session.output.next().await.is_err(),
    };
    assert!(refused, "a container that is over runs no program");
    t.delete(&pod).await;
    let gone = t.runtime.exec(&pod, request("c", &["true"])).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
}

/// Of running pods.
pub async fn stats_name_every_container_and_count_its_memory(t: &Contract<'_>) {
    let eater = (t.kit.eat)(8_000_000);
    let pod = t
        .run("measured", &[("small", "sleep 100"), ("large", &eater)])
        .await
        .expect("run")
        .id;
    while !t.logs(&pod, log_of("large")).await.0.contains("eaten") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stats = t.runtime.stats(&pod).await.expect("stats");
    assert_eq!(stats.keys().collect::<Vec<_>>(), ["large", "small"]);
    assert!(stats["large"].memory.usage > 8_000_000, "{:?}", stats["large"]);
    assert!(stats["small"].memory.usage < 8_000_000, "{:?}", stats["small"]);
    assert!(
        stats["large"].cpu.usage_ns > 0 && stats["small"].pids.current >= 1,
        "{stats:?}"
    );
    t.runtime
        .stop_pod(&pod, Some(Duration::ZERO))
        .await
        .expect("stop");
    let over = t.runtime.stats(&pod).await;
    assert!(matches!(over, Err(Error::WrongState { .. })), "{over:?}");
    t.delete(&pod).await;
}

/// By container, as the container numbers them; programs that are no processes are said to be none.
pub async fn processes_are_those_of_each_container(t: &Contract<'_>) {
    let pod = t
        .run("busy", &[("a", "sleep 100"), ("b", "sleep 100")])
        .await
        .expect("run")
        .id;
    match t.runtime.processes(&pod).await {
        Ok(all) if t.kit.processes => {
            assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
            for processes in all.values() {
                let first = processes.iter().find(|process| process.pid == 1);
                let first = first.expect("a first process");
                assert!(first.uid == 0 && first.rss > 0, "{first:?}");
                assert!(first.command.contains("sleep"), "{first:?}");
            }
        }
        Err(Error::Unsupported { .. }) if !t.kit.processes => {}
        other => panic!("{other:?}"),
    }
    t.runtime
        .stop_pod(&pod, Some(Duration::ZERO))
        .await
        .expect("stop");
    let over = t.runtime.processes(&pod).await;
    assert!(matches!(over, Err(Error::WrongState { .. })), "{over:?}");
    t.delete(&pod).await;
}

/// From the first container's creation on.
pub async fn events_tell_a_pods_life_in_order(t: &Contract<'_>) {
    let pod = t
        .run(
            "eventful",
            &[("short", "sleep 0.3; exit 4"), ("long", "sleep 100")],
        )
        .await
        .expect("run")
        .id;
    let mut events = t.runtime.events(&pod, true).await.expect("events");
    let (mut told, mut seen): (Vec<_>, Vec<String>) = (vec![], vec![]);
    let mut stopped = false;
    while let Some(event) = events.next().await.expect("event") {
        let code = event.exit_code.map_or(String::new(), |code| format!(" {code}"));
        seen.push(
            format!("{} {}{code}", event.kind, event.container)
                .trim_end()
                .to_owned(),
        );
        told.push(event);
        if !stopped && seen.last().is_some_and(|s| s == "container.exited short 4") {
            stopped = true;
            t.runtime
                .stop_pod(&pod, Some(Duration::from_millis(50)))
                .await
                .expect("stop");
        }
    }
    let position = |what: &str| {
        seen.iter()
            .position(|s| s == what)
            .unwrap_or_else(|| panic!("no {what} in {seen:?}"))
    };
    let life = [
        "container.created short",
        "container.started short",
        "container.started long",
        "pod.ready",
    ];
    let end = [
        "container.exited short 4",
        "pod.stopping",
        &format!("container.exited long {}", t.kit.exit_after_grace().code),
        "pod.stopped",
    ];
    let positions: Vec<usize> = life.iter().chain(&end).map(|what| position(what)).collect();
    assert!(positions.is_sorted(), "{seen:?}");
    // They can be asked for when the pod is over, too.
    t.runtime.wait_pod(&pod).await.expect("wait");
    let mut past = t.runtime.events(&pod, true).await.expect("past events");
    for event in told {
        assert_eq!(past.next().await.expect("event"), Some(event));
    }
    assert_eq!(past.next().await.expect("the end"), None);
    t.delete(&pod).await;
}

/// Through the pod's own loopback.
pub async fn a_port_of_the_pod_is_reached_from_outside(t: &Contract<'_>) {
    let serve = "echo there and back > /tmp/page; exec httpd -f -p 127.0.0.1:7777 -h /tmp";
    let mut manifest = t.pod("server", &[("c", serve)]);
    let host_port = free_port();
    let port = json!({"containerPort": 7777, "hostIP": "127.0.0.1", "hostPort": host_port});
    manifest["spec"]["containers"][0]["ports"] = json!([port]);
    let pod = t.run_manifest(&manifest).await.expect("run").id;
    let answer = t.fetch(&pod, 7777, "/page").await;
    assert!(
        answer.starts_with("HTTP/1.") && answer.ends_with("there and back\n"),
        "{answer}"
    );

    // Two at a time.
    let (one, two) = tokio::join!(get(host_port, "/page"), get(host_port, "/page"));
    for answer in [one, two] {
        assert!(answer.ends_with("there and back\n"), "{answer:?}");
    }

    let refused = match t.runtime.port_forward(&pod, 7778).await {
        Err(error) => error.to_string(),
        Ok(mut forward) => {
            let answer = forward.reader.next().await;
            answer.expect_err("nobody listens").to_string()
        }
    };
    assert!(refused.contains("7778"), "{refused}");
    t.delete(&pod).await;
    let free = std::net::TcpListener::bind(("127.0.0.1", host_port));
    free.expect("nobody listens at the host's port any more");
}

/// One that nobody listens at.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// What is answered at a port of the host.
async fn get(port: u16, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the host listens");
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}
