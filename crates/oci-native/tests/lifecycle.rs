//! A container's life, with real containers.

mod common;

use common::{Fixture, can_run};
use magik_oci::{Error, Exit, OciRuntime, Signal, Status, Stdio};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_created_started_waited_for_and_deleted() {
    if !can_run("a_container_is_created_started_waited_for_and_deleted") {
        return;
    }
    let f = Fixture::new("echo $GREETING; echo oops >&2; exit 7");
    let (exit, text) = f.run().await;
    assert_eq!((exit, text.as_str()), (Exit::exited(7), "hello\noops\n"));
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_state_follows_its_life() {
    if !can_run("its_state_follows_its_life") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    let status = async || f.runtime.state(&f.id).await.map(|s| s.status);
    assert!(matches!(status().await, Err(Error::NotFound(_))));
    let created = f.create(Stdio::default()).await.unwrap();
    assert_eq!(
        (created.status, status().await.unwrap()),
        (Status::Created, Status::Created)
    );
    assert!(matches!(
        f.create(Stdio::default()).await,
        Err(Error::AlreadyExists(_))
    ));
    f.runtime.start(&f.id).await.unwrap();
    assert_eq!(status().await.unwrap(), Status::Running);
    let again = f.runtime.start(&f.id).await.unwrap_err();
    assert!(
        matches!(
            again,
            Error::WrongState {
                status: Status::Running,
                ..
            }
        ),
        "{again}"
    );
    let refused = f.runtime.delete(&f.id, false).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::WrongState {
                operation: "delete",
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(f.runtime.list().await.unwrap().len(), 1);
    assert_eq!(f.runtime.processes(&f.id).await.unwrap(), [created.pid.unwrap()]);
    f.runtime.kill(&f.id, Signal::KILL, false).await.unwrap();
    assert_eq!(f.runtime.wait(&f.id).await.unwrap(), Exit::signalled(9));
    assert_eq!(status().await.unwrap(), Status::Stopped);
    assert_eq!(f.runtime.state(&f.id).await.unwrap().pid, None);
    f.runtime.delete(&f.id, false).await.unwrap();
    assert!(matches!(
        f.runtime.delete(&f.id, false).await,
        Err(Error::NotFound(_))
    ));
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_runs_in_the_container_and_gives_its_exit_code() {
    if !can_run("exec_runs_in_the_container_and_gives_its_exit_code") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let (exit, text) = f.exec("echo $$ in; exit 3").await;
    assert_eq!(exit, Exit::exited(3));
    assert!(text.ends_with(" in\n"), "{text:?}");
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}
