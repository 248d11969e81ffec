//! Containers that somebody attaches to.

use std::time::Duration;

use magik_infra::{ControlError, ExecEvent, ExecSession, plan::AttachPlan};

use crate::world::World;

/// A pod with one container, which is started once somebody has attached.
async fn attached(script: &str) -> (World, ExecSession) {
    let mut world = World::new().container("c", script);
    world.plan.containers[0].attach = Some(AttachPlan { terminal: false });
    world.start_init().await;
    let launch = world
        .launch
        .as_ref()
        .unwrap()
        .start_sandbox(&world.plan)
        .await
        .unwrap();
    world.commit();
    let client = world.client().await;
    let ready = async { launch.ready().await.unwrap() };
    let (session, ()) = tokio::join!(client.attach("c", None), ready);
    world.launch.as_ref().unwrap().commit().await.unwrap();
    (world, session.unwrap())
}

async fn read_until(session: &mut ExecSession, text: &str) {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(text) {
        match session.output.next().await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => all.extend(bytes),
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&all)),
        }
    }
}

pub(super) async fn who_attaches_starts_a_container_and_is_its_streams() {
    let script = "trap 'echo usr1' USR1; read line; echo \"$line\"; while read line; do :; done; sleep 1; echo err >&2; exit 7";
    let (mut world, mut session) = attached(script).await;
    session.input.write(b"typed\n").await.unwrap();
    read_until(&mut session, "typed\n").await;
    // The streams are one client's, and only signals that there are go to containers that there are.
    let refused = world.client().await.attach("c", None).await.unwrap_err();
    assert!(
        refused.to_string().contains("attached to it already"),
        "{refused}"
    );
    let client = world.client().await;
    for (container, number) in [("none", 10), ("c", 0), ("c", 65)] {
        let refused = client.signal(container, number, false).await.unwrap_err();
        let expected = matches!(refused, ControlError::NotFound(_)) == (container == "none");
        assert!(expected, "{refused}");
    }
    client.signal("c", 10, false).await.unwrap();
    session.input.close().await.unwrap();
    let (stdout, stderr, code) = session.collect(1 << 10).await.unwrap();
    assert_eq!(
        (stdout.as_slice(), stderr.as_slice(), code),
        (&b"usr1\n"[..], &b"err\n"[..], 7)
    );
    world.outcome().await;
}

pub(super) async fn who_lets_go_of_a_container_kills_it() {
    let (mut world, mut session) = attached("trap '' HUP TERM; echo up; while :; do sleep 1; done").await;
    read_until(&mut session, "up\n").await;
    session.input.signal(15).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(session);
    assert_eq!(world.outcome().await, "finished Failed");
}
