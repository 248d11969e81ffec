//! What the host takes over of what a guest says of its pod.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::timeout;

use crate::{
    client::{ControlClient, clean},
    events::{Event, EventKind},
    guest::Guest,
    shared::Shared,
    status::{ContainerPhase, MAX_PAST_RUNS, Phase, PodReason, PodStatus},
};

/// How long a container's log may take to arrive once the container has ended.
const LOG_TIME: Duration = Duration::from_secs(5);
/// How long a machine may take to be seen to end after its connections have, which end with it.
pub(super) const DEATH_TIME: Duration = Duration::from_secs(3);

/// The pod has ended in a way its guest has not told, unless it had ended before.
pub(super) fn end(status: &mut PodStatus, reason: PodReason, message: String) {
    if status.phase.is_final() {
        return;
    }
    status.phase = Phase::Failed;
    status.reason = Some(reason);
    status.message = Some(message);
    status.finished_at = Some(Timestamp::now());
}

/// The guest's status, once something has happened there; it is published before the event. A container's log is complete
/// before its end is told. May be dropped and called again.
pub(super) async fn status_after(
    shared: &Shared,
    client: &ControlClient,
    news: &[Event],
) -> Option<PodStatus> {
    let ended = news
        .iter()
        .filter(|event| event.kind == EventKind::ContainerExited);
    let ended: BTreeSet<&str> = ended.map(|event| event.container.as_str()).collect();
    join_all(
        ended
            .into_iter()
            .map(|container| log_is_complete(shared, container)),
    )
    .await;
    let status = client.status().await;
    status
        .inspect_err(|error| tracing::warn!(%error, "the guest does not tell its status"))
        .ok()
}

/// Publishes the guest's status and then what has happened; whether that was the last.
pub(super) fn tell(shared: &Shared, status: Option<PodStatus>, news: &mut Vec<Event>) -> bool {
    if let Some(status) = status {
        shared.publish(|ours| adopt(ours, status));
    }
    let last = news.iter().any(|event| event.kind == EventKind::PodStopped);
    for event in news.drain(..) {
        shared.events.add(Arc::new(event));
    }
    last
}

/// The guest says nothing more: its machine has ended, or the connection has.
pub(super) async fn lost(shared: &Shared, guest: &dyn Guest) {
    let died = timeout(DEATH_TIME, guest.ended()).await;
    let gone = || "the connection to the guest ended".to_owned();
    shared.publish(|status| match died {
        Ok(why) => end(status, PodReason::GuestDied, why),
        Err(_) => end(status, PodReason::GuestLost, gone()),
    });
}

/// Waits, but not for long, until a container's log has arrived.
pub(super) async fn log_is_complete(shared: &Shared, container: &str) {
    let Some(entry) = shared.container(container) else {
        return;
    };
    let mut signal = entry.log.subscribe();
    let complete = signal.wait_for(|complete| *complete);
    if timeout(LOG_TIME, complete).await.is_err() {
        tracing::warn!(container, "the end of the log does not arrive");
    }
}

/// Takes from the guest's status what the guest can know: how its containers are.
pub(super) fn adopt(ours: &mut PodStatus, theirs: PodStatus) {
    if ours.phase.is_final() || theirs.phase == Phase::Pending {
        return;
    }
    let most = ours.max_message();
    let of_guest = theirs.init_containers.into_iter().chain(theirs.containers);
    let of_guest = of_guest.chain(theirs.ephemeral_containers);
    for container in of_guest {
        let Some(known) = ours.container_mut(&container.name) else {
            continue;
        };
        // An answer may be older than the one before.
        let has_ended = matches!(known.state, ContainerPhase::Exited { .. });
        let is_newer = container.revision > known.revision;
        if is_newer || container.revision == known.revision && !has_ended {
            known.state = container.state;
            known.revision = container.revision;
            known.started = container.started;
            known.ready = container.ready;
            known.back_off_until = container.back_off_until;
            known.restart_count = container.restart_count;
            known.past = container.past;
            known.past.truncate(MAX_PAST_RUNS);
            known.bound_messages(most);
            known.resized = container.resized;
        }
    }
    ours.phase = theirs.phase;
    ours.reason = theirs.reason;
    ours.message = theirs.message.map(|message| clean(&message));
    if ours.started_at.is_none() {
        ours.started_at = Some(Timestamp::now());
    }
    if ours.phase.is_final() {
        ours.finished_at = Some(Timestamp::now());
    }
}
