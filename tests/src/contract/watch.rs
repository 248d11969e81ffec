//! watch.

use std::time::Duration;

use magik_infra::status::{ContainerPhase, Phase, PodStatus};
use magik_pri::{Change, PodChange, Watch};
use rustix::process::{Pid, Signal, kill_process};

use super::{Contract, exit_of, init_of};

/// The first change after which a pod is so, and that nothing came out of order before.
async fn until(watch: &mut Watch, pod: &str, is_so: impl Fn(&PodStatus) -> bool) -> Change {
    let mut before = 0;
    loop {
        let change = watch.next().await.expect("a change");
        assert!(change.position > before, "{change:?} after {before}");
        before = change.position;
        match &change.what {
            PodChange::Is(status) if status.id == pod && is_so(status) => return change,
            PodChange::Is(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn runs(status: &PodStatus) -> bool {
    let running = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Running { .. });
    status.phase == Phase::Running && status.containers.iter().all(|c| running(&c.state))
}

/// Whoever runs them: first those that there are, then what becomes of all of them.
pub async fn who_watches_sees_every_pod_come_change_and_go(t: &Contract<'_>) {
    let there = t.run("there", &[("c", "sleep 100")]).await.expect("run").id;
    // Another one's than that which runs the pods.
    let watching = (t.open)(&t.magikrun);
    let mut watch = watching.watch(0).await.expect("watch");
    let first = watch.next().await.expect("a change");
    assert!(
        matches!(&first.what, PodChange::Is(status) if status.id == there && runs(status)),
        "{first:?}"
    );

    let scripts = [("short", "sleep 0.5; exit 3"), ("long", "sleep 100")];
    let pod = t.run("new", &scripts).await.expect("run").id;
    until(&mut watch, &pod, runs).await;
    let is_short = |container: &&magik_infra::status::ContainerStatus| container.name == "short";
    let ended = until(&mut watch, &pod, |status| {
        let short = status.containers.iter().find(is_short);
        short.is_some_and(|c| matches!(c.state, ContainerPhase::Exited { .. }))
    });
    let PodChange::Is(status) = ended.await.what else {
        unreachable!()
    };
    assert_eq!(exit_of(&status, "short").code, 3);
    let stopped = t
        .runtime
        .stop_pod(&pod, Some(Duration::ZERO))
        .await
        .expect("stop");
    let last = until(&mut watch, &pod, |status| status.phase.is_final()).await;
    assert_eq!(last.what, PodChange::Is(stopped.into()));
    t.delete(&pod).await;
    let gone = watch.next().await.expect("a change");
    assert_eq!(gone.what, PodChange::Gone(pod.clone()));

    // From a position on, and from one that means nothing.
    let mut since = watching.watch(last.position).await.expect("watch");
    assert_eq!(since.next().await.expect("a change"), gone);
    let mut lost = watching.watch(1).await.expect("watch");
    assert_eq!(lost.next().await.expect("a change").what, PodChange::Resync);
    assert_eq!(lost.next().await.expect("a change"), first);
    t.delete(&there).await;
    for mut watch in [watch, since, lost] {
        let gone = watch.next().await.expect("a change");
        assert_eq!(gone.what, PodChange::Gone(there.clone()));
    }
}

/// Nothing is written then.
pub async fn who_watches_sees_an_init_die(t: &Contract<'_>) {
    let watching = (t.open)(&t.magikrun);
    let mut watch = watching.watch(0).await.expect("watch");
    let pod = t.run("doomed", &[("c", "sleep 100")]).await.expect("run").id;
    until(&mut watch, &pod, runs).await;
    let init = Pid::from_raw(init_of(t, &pod)).expect("a pid");
    kill_process(init, Signal::KILL).expect("kill");
    let failed = until(&mut watch, &pod, |status| status.phase == Phase::Failed).await;
    let PodChange::Is(status) = failed.what else {
        unreachable!()
    };
    assert_eq!(status.reason, Some(magik_infra::status::PodReason::InitDied));
    t.delete(&pod).await;
    let gone = watch.next().await.expect("a change");
    assert_eq!(gone.what, PodChange::Gone(pod));
}
