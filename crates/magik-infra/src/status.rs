//! A pod's status: written by the pod init as `status.json` at every transition (temp file and rename), read by everyone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use magik_oci::Exit;
use serde::{Deserialize, Serialize};

pub use crate::plan::{ConsolePlan, IgnoredField, UserNamespace};
use crate::plan::{ContainerPlan, PodPlan};

/// The phases of Kubernetes' pod life-cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started yet.
    Pending,
    /// All containers were started, at least one still runs.
    Running,
    /// All containers ended with exit code 0.
    Succeeded,
    /// A container ended otherwise, or the pod init died, or the deadline passed.
    Failed,
}

impl Phase {
    /// Whether nothing of the pod runs any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Why a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PodReason {
    /// Somebody stopped it.
    Stopped,
    /// Its `activeDeadlineSeconds` passed.
    DeadlineExceeded,
    /// It has more on disk than it may have.
    Evicted,
    /// A required extension of its init failed.
    ExtensionFailed,
    /// It was not started.
    LaunchFailed,
    /// A process of it outlived SIGKILL.
    NotKilled,
    /// Its init died.
    InitDied,
    /// The machine that it ran in ended.
    GuestDied,
    /// The connection to the machine that it ran in ended.
    GuestLost,
    /// The machine that it ran in did not stop it in time.
    NotStopped,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl PodReason {
    /// One word, as the status has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "Stopped",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::Evicted => "Evicted",
            Self::ExtensionFailed => "ExtensionFailed",
            Self::LaunchFailed => "LaunchFailed",
            Self::NotKilled => "NotKilled",
            Self::InitDied => "InitDied",
            Self::GuestDied => "GuestDied",
            Self::GuestLost => "GuestLost",
            Self::NotStopped => "NotStopped",
            Self::Unknown => "Unknown",
        }
    }
}

impl std::fmt::Display for PodReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A pod as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// The pod's id.
    pub id: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `native`, `microvm` or `wasm`.
    pub runtime_class: String,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Why it ended, where its containers did not end by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PodReason>,
    /// A sentence for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When `run_pod` reserved it.
    pub created_at: Timestamp,
    /// When all containers were running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the last container ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The user namespace that its containers share; absent: users are the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_namespace: Option<UserNamespace>,
    /// What its manifest says and changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<IgnoredField>,
    /// Init containers, in order.
    #[serde(default)]
    pub init_containers: Vec<ContainerStatus>,
    /// App containers, in order.
    pub containers: Vec<ContainerStatus>,
    /// Containers that were added for looking at the others, in order. How they end does not matter to
    /// the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_containers: Vec<ContainerStatus>,
}

impl PodStatus {
    /// A pod of which nothing has been started yet.
    pub(crate) fn pending(plan: &PodPlan, runtime_class: &str) -> Self {
        let all = |plans: &[ContainerPlan]| plans.iter().map(ContainerStatus::waiting).collect();
        Self {
            id: plan.id.clone(),
            name: plan.name.clone(),
            namespace: plan.namespace.clone(),
            runtime_class: runtime_class.to_owned(),
            labels: plan.labels.clone(),
            annotations: plan.annotations.clone(),
            phase: Phase::Pending,
            reason: None,
            message: None,
            created_at: Timestamp::now(),
            started_at: None,
            finished_at: None,
            user_namespace: plan.user_namespace,
            ignored: plan.ignored.clone(),
            init_containers: all(&plan.init_containers),
            containers: all(&plan.containers),
            ephemeral_containers: Vec::new(),
        }
    }

    /// All containers, init containers first, ephemeral ones last.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.own_containers().chain(&self.ephemeral_containers)
    }

    /// Those that the pod consists of.
    fn own_containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// A container by name.
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.all_containers().find(|container| container.name == name)
    }

    pub(crate) fn container_mut(&mut self, name: &str) -> Option<&mut ContainerStatus> {
        let own = self.init_containers.iter_mut().chain(&mut self.containers);
        own.chain(&mut self.ephemeral_containers)
            .find(|container| container.name == name)
    }

    /// How much each of its containers can say about its end, in bytes.
    pub(crate) fn max_message(&self) -> usize {
        (MAX_MESSAGES / self.all_containers().count().max(1)).min(MAX_MESSAGE)
    }

    /// The exit code of the whole pod: of the first container (init containers first) that did not exit with 0, else 0.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        let failed = |c: &ContainerStatus| match &c.state {
            ContainerPhase::Exited { exit, .. } if exit.code != 0 => Some(exit.code),
            _ => None,
        };
        self.own_containers().find_map(failed).unwrap_or(0)
    }
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name in the pod.
    pub name: String,
    /// Its image, as the pod named it.
    pub image: String,
    /// The digest of the image's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Where it is in its life.
    pub state: ContainerPhase,
    /// Grows whenever `state` changes, and from one container to the next of the same name: of two
    /// statuses the one with the larger number is the newer.
    #[serde(default)]
    pub revision: u64,
    /// Whether it has started: its program runs, and its hook and its startup probe have succeeded.
    #[serde(default)]
    pub started: bool,
    /// Whether it is ready: it has started, and its readiness probe has succeeded, if it has one.
    #[serde(default)]
    pub ready: bool,
    /// It has ended and is run again then (`CrashLoopBackOff`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_off_until: Option<Timestamp>,
    /// How often it was run again.
    #[serde(default)]
    pub restart_count: u32,
    /// How it ended before, the last time at the end; the last [`MAX_PAST_RUNS`] are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<PastRun>,
    /// Its streams, besides its log.
    #[serde(default, skip_serializing_if = "ConsolePlan::is_default")]
    pub console: ConsolePlan,
    /// Its limits and requests, where they are others than it was planned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resized: Option<Resized>,
}

/// What a container was given since it was planned (`pod resize`); what is absent is as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resized {
    /// Thousandths of a processor that it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<u64>,
    /// Bytes of memory that it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Thousandths of a processor that it may expect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<u64>,
    /// Bytes of memory that it may expect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_request: Option<u64>,
}

impl Resized {
    /// This, and what was before where this says nothing.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        Self {
            cpu_limit: self.cpu_limit.or(before.cpu_limit),
            memory_limit: self.memory_limit.or(before.memory_limit),
            cpu_request: self.cpu_request.or(before.cpu_request),
            memory_request: self.memory_request.or(before.memory_request),
        }
    }
}

/// How many ends of a container are remembered.
pub const MAX_PAST_RUNS: usize = 8;

/// A run of a container that has ended, and after which it was run again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastRun {
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How it ended.
    pub exit: Exit,
    /// What it said about that (`terminationMessagePath`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How much a container can say about its end, in bytes; the kubelet's.
pub const MAX_MESSAGE: usize = 4096;
/// How much those of a pod can say together, in bytes; the kubelet's.
pub const MAX_MESSAGES: usize = 12 << 10;

/// So much of a message.
pub(crate) fn bounded(mut message: String, most: usize) -> String {
    message.truncate(message.floor_char_boundary(most));
    message
}

impl ContainerStatus {
    /// Of one that is not there yet.
    pub(crate) fn waiting(plan: &ContainerPlan) -> Self {
        Self {
            name: plan.name.clone(),
            image: plan.image.clone(),
            image_id: plan.image_id.clone(),
            state: ContainerPhase::Waiting,
            revision: 0,
            started: false,
            ready: false,
            back_off_until: None,
            restart_count: 0,
            past: Vec::new(),
            console: plan.console,
            resized: None,
        }
    }

    /// It is something else now.
    pub(crate) fn is(&mut self, state: ContainerPhase) {
        self.revision = self.revision.saturating_add(1);
        self.state = state;
        self.back_off_until = None;
        (self.started, self.ready) = (false, false);
    }

    /// Whether it has started, and is ready: whether that is news.
    pub(crate) fn answers(&mut self, started: bool, ready: bool) -> bool {
        let runs = matches!(self.state, ContainerPhase::Running { .. });
        let is_news = runs && (self.started, self.ready) != (started, ready);
        if is_news {
            self.revision = self.revision.saturating_add(1);
            (self.started, self.ready) = (started, ready);
        }
        is_news
    }

    /// Shortens what it says about its ends.
    pub(crate) fn bound_messages(&mut self, most: usize) {
        let now = match &mut self.state {
            ContainerPhase::Exited { message, .. } => Some(message),
            _ => None,
        };
        let past = self.past.iter_mut().map(|run| &mut run.message);
        for message in now.into_iter().chain(past).flatten() {
            message.truncate(message.floor_char_boundary(most));
        }
    }

    /// One that has ended is being created once more, or will be.
    pub(crate) fn will_run_again(&mut self) {
        let ContainerPhase::Exited {
            started_at,
            finished_at,
            exit,
            ref mut message,
        } = self.state
        else {
            return;
        };
        let message = message.take();
        if self.past.len() == MAX_PAST_RUNS {
            self.past.remove(0);
        }
        self.past.push(PastRun {
            started_at,
            finished_at,
            exit,
            message,
        });
        self.is(ContainerPhase::Waiting);
    }

    /// That came to nothing: it is as it was.
    pub(crate) fn does_not_run_again(&mut self) {
        if let Some(PastRun {
            started_at,
            finished_at,
            exit,
            message,
        }) = self.past.pop()
        {
            self.is(ContainerPhase::Exited {
                started_at,
                finished_at,
                exit,
                message,
            });
        }
    }

    /// It was created.
    pub(crate) fn created(&mut self) {
        self.is(ContainerPhase::Created);
    }

    /// It was created, and its program cannot be run.
    pub(crate) fn cannot_start(&mut self, exit: Exit) {
        let now = Timestamp::now();
        self.is(ContainerPhase::Exited {
            started_at: now,
            finished_at: now,
            exit,
            message: None,
        });
    }

    /// It runs.
    pub(crate) fn runs(&mut self, started_at: Timestamp, pid: Option<i32>) {
        if !self.past.is_empty() {
            self.restart_count += 1;
        }
        self.is(ContainerPhase::Running { started_at, pid });
    }
}

/// A container's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum ContainerPhase {
    /// It is being created, or waits for that.
    Waiting,
    /// It is there, and its program waits to be started.
    Created,
    /// Its program runs.
    Running {
        /// Since when.
        #[serde(rename = "startedAt")]
        started_at: Timestamp,
        /// Its first process as the pod init's pid namespace numbers it; absent where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// Its program ended.
    Exited {
        /// When it was started.
        #[serde(rename = "startedAt")]
        started_at: Timestamp,
        /// When it ended.
        #[serde(rename = "finishedAt")]
        finished_at: Timestamp,
        /// How it ended.
        exit: Exit,
        /// What it said about that (`terminationMessagePath`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_as_it_was_written_and_a_new_one_is_none_of_ours() {
        let all = [PodReason::Stopped, PodReason::InitDied, PodReason::NotStopped];
        for reason in all {
            let text = serde_json::to_string(&reason).unwrap();
            assert_eq!(text, format!("{:?}", reason.as_str()));
            assert_eq!(serde_json::from_str::<PodReason>(&text).unwrap(), reason);
        }
        let new: PodReason = serde_json::from_str(r#""Preempted""#).unwrap();
        assert_eq!(new, PodReason::Unknown);
    }
}
