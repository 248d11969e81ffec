//! The containers of a pod, by name.

use std::sync::Arc;

use tokio::sync::watch;

use crate::plan::{ContainerPlan, PodPlan};

/// When a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To its end, before the others are started.
    Init,
    /// As long as the pod.
    App,
    /// Added for looking at the others; it ends with them.
    Ephemeral,
}

/// A container of a pod: what does not change while it runs, ends and runs again.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) plan: Arc<ContainerPlan>,
    /// Changes when its log grows; true when the log is complete.
    pub(crate) log: watch::Sender<bool>,
}

impl Entry {
    fn new(kind: Kind, plan: ContainerPlan) -> Self {
        let (plan, log) = (Arc::new(plan), watch::Sender::new(false));
        Self { kind, plan, log }
    }

    /// Whether it is an init container that runs as long as the pod.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.kind == Kind::Init && self.plan.lifecycle.is_of_sidecar()
    }
}

/// All of them, in the order they are started in.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Entry>);

impl Table {
    pub(crate) fn of(plan: &PodPlan) -> Self {
        let entry = |kind| move |plan: &ContainerPlan| Entry::new(kind, plan.clone());
        let before = plan.init_containers.iter().map(entry(Kind::Init));
        let all = before.chain(plan.containers.iter().map(entry(Kind::App)));
        Self(all.collect())
    }

    /// One more container, the last to be started; `false`: there is one of that name.
    pub(crate) fn add(&mut self, plan: ContainerPlan) -> bool {
        let is_new = self.get(&plan.name).is_none();
        if is_new {
            let kind = match plan.ephemeral {
                Some(_) => Kind::Ephemeral,
                None => Kind::App,
            };
            self.0.push(Entry::new(kind, plan));
        }
        is_new
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.plan.name == name)
    }

    /// Those of a kind.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.kind == kind)
    }

    /// Takes one out; `false`: there was none.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| entry.plan.name != name);
        self.0.len() < before
    }
}
