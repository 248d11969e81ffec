//! The life of a pod from its launch to its end, which is the same wherever its containers are.

mod inputs;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, timeout},
};

pub(crate) use self::inputs::{CommitCheck, Inputs, Interrupt, reached};
use crate::{
    containers::Containers,
    error::LaunchError,
    extension::RequiredExtensionFailed,
    plan::PodPlan,
    publish,
    service::{self, Acceptor},
    shared::{Shared, Updates},
    state_dir::StateDir,
    status::PodStatus,
};

/// How long the init waits for clients to take their last answers before it ends.
const LINGER: Duration = Duration::from_secs(1);

/// How a pod ended.
#[derive(Debug)]
pub enum PodOutcome {
    /// It ran and is over; `status.json` says the same.
    Finished(Box<PodStatus>),
    /// It did not start; the launcher was told.
    Failed(LaunchError),
    /// The launch connection ended before the commit: nothing of the pod may stay.
    Abandoned,
}

/// Who starts a pod's containers and follows them to their end.
pub(crate) trait Supervisor {
    /// How much longer than its `activeDeadlineSeconds` a pod is let live.
    const DEADLINE_MARGIN: Duration = Duration::ZERO;

    /// Where required extensions report their failures; asked for once.
    fn extension_failures(&mut self) -> Option<mpsc::Receiver<RequiredExtensionFailed>> {
        None
    }

    /// Starts the pod, and says so to its launcher. May be dropped at any await.
    async fn launch(&mut self) -> Result<(), LaunchError>;

    /// The pod did not start: says so everywhere. What was started ends with this process.
    async fn launch_failed(&mut self, error: &LaunchError);

    /// Follows the running pod to its end; `None`: it was abandoned before the commit.
    async fn supervise(&mut self, inputs: &mut Inputs) -> Option<PodStatus>;
}

/// The connections of a pod: its launcher's, those of clients, those of the host's ports.
pub(crate) struct Ends<S, A> {
    pub(crate) launch: S,
    pub(crate) control: A,
    pub(crate) listeners: Vec<TcpListener>,
}

/// What a pod's process is told from the start.
pub(crate) struct Life {
    pub(crate) state_dir: StateDir,
    /// For the status.
    pub(crate) runtime_class: String,
    /// The size at which a container's log is rotated, in bytes.
    pub(crate) max_log_size: u64,
    pub(crate) committed: CommitCheck,
    /// SIGTERM and SIGINT stop the pod.
    pub(crate) signals: bool,
}

/// Serves the pod's connections while it lives. `begin` makes the supervisor of a plan.
///
/// # Errors
/// The process cannot take signals.
pub(crate) async fn run<P: Supervisor, S, A>(
    life: Life,
    containers: Arc<dyn Containers>,
    ends: Ends<S, A>,
    begin: impl FnOnce(Arc<Shared>, Arc<PodPlan>, Updates) -> P,
) -> io::Result<PodOutcome>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    A: Acceptor,
{
    let Life {
        state_dir,
        runtime_class,
        max_log_size,
        committed,
        signals,
    } = life;
    let (commands, receiver) = mpsc::channel(16);
    let mut inputs = Inputs::new(receiver, committed, signals)?;
    let shared = &Arc::new(Shared::new(state_dir, runtime_class, max_log_size, commands));
    let connections = service::Connections::new(shared.clone(), containers.clone());
    inputs.launch = connections.serve(ends.launch, true);
    let accepting = tokio::spawn(connections.clone().accept(ends.control));

    let begin = |plan, updates| begin(shared.clone(), plan, updates);
    let outcome = live(shared, &containers, &mut inputs, ends.listeners, begin).await;

    if let PodOutcome::Finished(_) = outcome
        && let Err(error) = shared.state_dir.write_events(&shared.events.all())
    {
        tracing::warn!(%error, "what happened in the pod is not kept");
    }
    shared.over();
    accepting.abort();
    inputs.dismiss();
    if timeout(LINGER, connections.idle()).await.is_err() {
        tracing::debug!("some clients did not take their last answer");
    }
    Ok(outcome)
}

/// A pod's whole life.
async fn live<P: Supervisor>(
    shared: &Arc<Shared>,
    containers: &Arc<dyn Containers>,
    inputs: &mut Inputs,
    listeners: Vec<TcpListener>,
    begin: impl FnOnce(Arc<PodPlan>, Updates) -> P,
) -> PodOutcome {
    let Some((plan, updates)) = inputs.launch_request(shared).await else {
        return PodOutcome::Abandoned;
    };
    // Counted from the launch, as kubelet does.
    inputs.deadline = plan.active_deadline_s.and_then(|seconds| {
        let until = Duration::from_secs(seconds).saturating_add(P::DEADLINE_MARGIN);
        Instant::now().checked_add(until)
    });
    shared.begin(PodStatus::pending(&plan, &shared.runtime_class));
    let mut pod = begin(plan.clone(), updates);
    inputs.extension_failures = pod.extension_failures();

    let launched = tokio::select! {
        launched = pod.launch() => launched,
        interrupt = inputs.interrupt(shared) => match interrupt.before_ready() {
            None => return PodOutcome::Abandoned,
            Some(error) => Err(error),
        },
    };
    if let Err(error) = launched {
        pod.launch_failed(&error).await;
        return PodOutcome::Failed(error);
    }
    let _published = publish::serve(listeners, &plan.published, containers);
    match pod.supervise(inputs).await {
        Some(status) if inputs.settled(shared).await => PodOutcome::Finished(Box::new(status)),
        _ => PodOutcome::Abandoned,
    }
}
