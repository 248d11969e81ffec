//! Exec, logs and port-forward.

use std::{fs, time::Duration};

use magik_infra::{ControlError, ExecEvent, ExecRequest, logs::LogOptions};
use magik_oci::ExecFailure;

use super::exit_code;
use crate::world::World;

pub(super) async fn exec_gives_output_exit_code_and_takes_input() {
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

pub(super) async fn exec_keeps_the_containers_sandbox_and_takes_changes() {
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

pub(super) async fn exec_with_a_terminal_can_be_resized() {
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

pub(super) async fn exec_of_a_missing_program_says_so() {
    let world = World::new().container("app", "sleep 1000").up().await;
    let error = world
        .client()
        .await
        .exec(&ExecRequest::new("app", ["/no/such"]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ControlError::CannotExecute { message, why }
            if message.contains("cannot execute /no/such") && why.failure == ExecFailure::NotFound),
        "{error}"
    );
}

pub(super) async fn exec_dies_with_its_client() {
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

pub(super) async fn exec_refuses_what_does_not_run() {
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

pub(super) async fn exec_takes_more_input_than_the_window() {
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

pub(super) async fn logs_follow_until_the_container_ends() {
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

pub(super) async fn logs_tail_and_timestamps() {
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

pub(super) async fn port_forward_reaches_a_port_in_the_pod() {
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
