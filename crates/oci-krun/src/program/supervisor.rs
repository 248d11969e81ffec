//! What a container is on the host: its machine's supervisor, with the program's streams, signals and exit code.

use std::{fs, future::Future, io, path::Path, process::ExitCode, sync::Arc, time::Duration};

use magik_infra::{
    ControlClient, ControlError, ExecSession, Launch, LaunchStep, Relay, StateDir, guest::Guest,
    plan::PodPlan,
};
use magik_vm::{Machine, MachineGuest};
use rustix::{
    fs::Mode,
    mount::{UnmountFlags, unmount},
};
use tokio::{net::UnixStream, time::timeout};

use super::{
    Error, FAILED, HOST, PLAN, Reporter, SANDBOX, Streams, at,
    session::{Signals, carry, raw_terminal, size},
};
use crate::words::STARTED;

/// What a container's status says it runs in: what a pod's `runtimeClassName` is there.
const CLASS: &str = "microvm";

/// How long a machine may take to be seen to end after its connections have, and a launch to say what went wrong.
const MOMENT: Duration = Duration::from_secs(5);

/// Runs the machine of the container that was prepared in this directory of the host.
pub(super) fn run(dir: &Path, streams: Streams) -> Result<ExitCode, Error> {
    enter_host().map_err(Error::Supervisor)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let mut started = Reporter::open(&dir.join(STARTED));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(Error::Supervisor)?;
    let ended = tokio.block_on(supervise(dir, &mut started, streams));
    // Somebody may never write to standard input, or never read from standard output again.
    tokio.shutdown_background();
    ended
}

/// Makes the host's root this process's own, as a pod's supervisor has it; what it was started on goes.
fn enter_host() -> io::Result<()> {
    if !rustix::process::getpid().is_init() {
        return Err(io::Error::other(
            "a machine's supervisor is started by magikrun itself, not by hand",
        ));
    }
    rustix::process::chdir(HOST)?;
    // pivot_root(2): the old root is stacked on the new one.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

async fn supervise(dir: &Path, started: &mut Reporter, streams: Streams) -> Result<ExitCode, Error> {
    let launched = launch(dir, streams).await;
    let Launched {
        mut signals,
        guest,
        session,
        terminal,
        launcher,
    } = match launched {
        Ok(launched) => launched,
        Err(error) => {
            started.failed(&error);
            return Ok(ExitCode::from(FAILED));
        }
    };
    started.started();
    let ended = carry(session, terminal, &mut signals, streams).await;
    drop(launcher);
    match ended {
        Ok(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(FAILED))),
        Err(error) => {
            let how = timeout(MOMENT, guest.ended()).await;
            Err(Error::Lost(how.unwrap_or_else(|_| error.to_string())))
        }
    }
}

/// A container whose program runs.
struct Launched {
    signals: Signals,
    guest: Arc<MachineGuest>,
    session: ExecSession,
    terminal: bool,
    /// Its end would be the pod's.
    launcher: ControlClient,
}

async fn launch(dir: &Path, streams: Streams) -> Result<Launched, ControlError> {
    let broken = |e: io::Error| ControlError::Refused(e.to_string());
    let signals = Signals::catch().map_err(broken)?;
    let (machine, plan) = read(dir).map_err(broken)?;
    let container = plan
        .containers
        .first()
        .ok_or_else(|| broken(io::Error::other("no container")))?;
    let terminal = container.attach.is_some_and(|attach| attach.terminal);
    if terminal {
        raw_terminal(streams.input).map_err(broken)?;
    }
    let state = StateDir::new(fs::File::open(dir).map_err(at(dir)).map_err(broken)?.into());
    let control = state.bind_control().map_err(broken)?;
    let guest = Arc::new(MachineGuest::new(machine, dir.join(SANDBOX)));
    let (ours, theirs) = UnixStream::pair().map_err(broken)?;
    let relay = Relay::new(guest.clone(), state, CLASS.to_owned());
    // It ends with this process.
    tokio::spawn(relay.without_signals().run(theirs, control));
    let launcher = ControlClient::over(ours).await?;
    let mut launch = launcher.start_sandbox(&plan).await?;
    // What comes after the boot comes from the guest.
    while launch
        .next()
        .await?
        .is_some_and(|progress| progress.step == LaunchStep::Boot)
    {}
    let window = size(streams.input).filter(|_| terminal);
    let attached = attach(&guest, &container.name, window);
    let session = both(attached, launch).await?;
    Ok(Launched {
        signals,
        guest,
        session,
        terminal,
        launcher,
    })
}

fn read(dir: &Path) -> io::Result<(Machine, PodPlan)> {
    let sandbox = dir.join(SANDBOX);
    let path = sandbox.join(PLAN);
    let plan = fs::read(&path).map_err(at(&path))?;
    Ok((Machine::read(&sandbox)?, serde_json::from_slice(&plan)?))
}

async fn attach(
    guest: &MachineGuest,
    container: &str,
    window: Option<(u16, u16)>,
) -> Result<ExecSession, ControlError> {
    let stream = guest.connection().await.ok_or(ControlError::Disconnected)?;
    let client = ControlClient::over(stream).await?;
    client.attach(container, window).await
}

/// The program runs when the launch and who attaches say so. Of two errors it is the launch's that knows why.
async fn both(
    attached: impl Future<Output = Result<ExecSession, ControlError>>,
    launch: Launch,
) -> Result<ExecSession, ControlError> {
    let ready = launch.ready();
    tokio::pin!(attached, ready);
    tokio::select! {
        session = &mut attached => match session {
            Ok(session) => ready.await.map(|()| session),
            Err(error) => match timeout(MOMENT, ready).await {
                Ok(Err(why)) => Err(why),
                _ => Err(error),
            },
        },
        done = &mut ready => match done {
            Ok(()) => attached.await,
            Err(why) => Err(why),
        },
    }
}
