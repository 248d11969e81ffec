//! Everything that reaches the supervisor from outside: commands, signals, the launch connection's end, the deadline.

use std::{future::pending, io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    error::{LaunchError, LaunchStep},
    extension::RequiredExtensionFailed,
    plan::PodPlan,
    shared::{Answer, Change, ChangeError, Command, Shared, Updates},
    state_dir::StateDir,
    wire::Meter,
};

/// Whether a pod whose launcher is gone was committed all the same.
pub(crate) type CommitCheck = Box<dyn Fn(&StateDir) -> bool + Send + Sync>;

/// Waits for an instant; for ever without one.
pub(crate) async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// What ends the normal course of a pod.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// The launcher is gone and the pod was never committed.
    Abandoned,
    /// Somebody wants it stopped; without `grace`, within the pod's own.
    Stop { grace: Option<Duration> },
    /// `activeDeadlineSeconds` passed.
    Deadline,
    /// A required extension failed.
    ExtensionFailed(RequiredExtensionFailed),
    /// A container is to be changed.
    Change {
        container: String,
        change: Change,
        answer: Answer,
    },
}

impl Interrupt {
    /// What it means to a pod that is still being started; `None`: nobody is left to be told.
    pub(super) fn before_ready(self) -> Option<LaunchError> {
        let passed = "activeDeadlineSeconds passed before every container was started";
        match self {
            // Changes wait until the pod is ready (`Inputs::next`).
            Self::Abandoned | Self::Change { .. } => None,
            Self::Deadline => Some(LaunchError::pod(LaunchStep::Deadline, passed)),
            Self::ExtensionFailed(error) => Some(LaunchError::pod(LaunchStep::Extension, &error)),
            Self::Stop { .. } => {
                let stopped = "the pod was stopped before every container was started";
                Some(LaunchError::pod(LaunchStep::Stopped, stopped))
            }
        }
    }
}

pub(crate) struct Inputs {
    commands: mpsc::Receiver<Command>,
    /// SIGTERM and SIGINT, unless they are somebody else's.
    signals: Option<(Signal, Signal)>,
    committed_check: CommitCheck,
    committed: bool,
    /// The launch connection.
    pub(crate) launch: Arc<Meter>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) extension_failures: Option<mpsc::Receiver<RequiredExtensionFailed>>,
    /// Who waits for the pod's end.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Inputs {
    /// With `signals`, SIGTERM and SIGINT stop the pod.
    pub(crate) fn new(
        commands: mpsc::Receiver<Command>,
        committed_check: CommitCheck,
        signals: bool,
    ) -> io::Result<Self> {
        let listen = || Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
        Ok(Self {
            commands,
            signals: signals.then(listen).transpose().map_err(|e: io::Error| e)?,
            committed_check,
            committed: false,
            launch: Meter::new(),
            deadline: None,
            extension_failures: None,
            waiting: Vec::new(),
        })
    }

    /// Waits for the plan; `None`: it will not come.
    pub(crate) async fn launch_request(&mut self, shared: &Shared) -> Option<(Arc<PodPlan>, Updates)> {
        loop {
            tokio::select! {
                command = self.commands.recv() => match command? {
                    Command::Launch { plan, data, updates } => {
                        let plan = Arc::from(plan);
                        shared.stage(data);
                        shared.planned(Arc::clone(&plan));
                        return Some((plan, updates));
                    }
                    // Whoever asked is told by the channel's end.
                    Command::Commit { .. } | Command::Change { .. } => {}
                    Command::Stop { done, .. } => {
                        self.waiting.push(done);
                        return None;
                    }
                },
                () = self.launch.closed() => return None,
                () = asked_to_end(&mut self.signals) => return None,
            }
        }
    }

    /// Waits for the next interrupt. Commits and second launches are dealt with on the way.
    pub(crate) async fn interrupt(&mut self, shared: &Shared) -> Interrupt {
        loop {
            if let Some(interrupt) = self.next(shared).await {
                return interrupt;
            }
        }
    }

    /// The pod has ended by itself, maybe at once: its launcher must still learn that it had started. Waits for the
    /// commit; `false`: it will not come. Whoever asked for a stop is not kept waiting.
    pub(crate) async fn settled(&mut self, shared: &Shared) -> bool {
        while !self.committed && self.waiting.is_empty() {
            match self.next(shared).await {
                Some(Interrupt::Abandoned) => return false,
                Some(Interrupt::Stop { .. }) => return true,
                // Nothing runs any more.
                Some(Interrupt::Deadline | Interrupt::ExtensionFailed(_) | Interrupt::Change { .. })
                | None => {}
            }
        }
        true
    }

    /// Deals with what comes next; `None`: that was all.
    async fn next(&mut self, shared: &Shared) -> Option<Interrupt> {
        let command = tokio::select! {
            command = self.commands.recv() => command,
            () = asked_to_end(&mut self.signals) => return Some(Interrupt::Stop { grace: None }),
            () = reached(self.deadline) => {
                self.deadline = None;
                return Some(Interrupt::Deadline);
            }
            failed = failure(&mut self.extension_failures) => return Some(Interrupt::ExtensionFailed(failed)),
            () = self.launch.closed(), if !self.committed => {
                // The launcher may have died between the rename and its Commit.
                if !(self.committed_check)(&shared.state_dir) {
                    return Some(Interrupt::Abandoned);
                }
                self.committed = true;
                return None;
            }
        };
        match command {
            Some(Command::Commit { done }) => {
                self.committed = true;
                let _ = done.send(());
            }
            Some(Command::Launch { updates, .. }) => {
                let error = LaunchError::pod(LaunchStep::Plan, "the pod was already launched");
                updates.failed(&error);
            }
            Some(Command::Stop { grace, done }) => {
                self.waiting.push(done);
                return Some(Interrupt::Stop { grace });
            }
            Some(Command::Change {
                container,
                change,
                answer,
            }) if self.committed => {
                return Some(Interrupt::Change {
                    container,
                    change,
                    answer,
                });
            }
            Some(Command::Change {
                container, answer, ..
            }) => {
                let why = "the pod is being started";
                let _ = answer.send(Err(ChangeError::State { name: container, why }));
            }
            // The service holds a sender as long as the pod lives.
            None => pending().await,
        }
        None
    }

    /// The pod is over: everyone who waits for that is told, and whoever asks now, too.
    pub(crate) fn dismiss(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Stop { done, .. } | Command::Commit { done } = command {
                self.waiting.push(done);
            }
        }
        for done in self.waiting.drain(..) {
            let _ = done.send(());
        }
    }
}

async fn asked_to_end(signals: &mut Option<(Signal, Signal)>) {
    match signals {
        Some((terminate, interrupt)) => tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        },
        None => pending().await,
    }
}

async fn failure(failures: &mut Option<mpsc::Receiver<RequiredExtensionFailed>>) -> RequiredExtensionFailed {
    match failures {
        // The channel closes with the pod.
        Some(receiver) => match receiver.recv().await {
            Some(failed) => failed,
            None => pending().await,
        },
        None => pending().await,
    }
}
