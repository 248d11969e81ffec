//! One container, from created to stopped.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use magik_oci::{ContainerState, Exit, ExitReason, Signal, Status};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};
use wasmtime::{Engine, Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::{
    control::{Control, Gate, Verdict, set_once},
    ended::{Ended, SIGKILL},
    error::one_line,
    host::{Host, ProgramSetup},
    http::Server,
    limiter::{LimitReached, Usage},
    network::Listening,
    program::Linked,
    sockets::Sockets,
    stdio::Streams,
};

/// Stack of a container's thread in bytes; a program has its own.
const THREAD_STACK: usize = 512 * 1024;

/// How long `start` waits for instantiation, which may run code of the program's.
const INSTANTIATION: Duration = Duration::from_secs(5);

/// After this time a killed program that is stuck in a system call counts as ended.
const STUCK: Duration = Duration::from_secs(2);

/// A created container.
#[derive(Debug)]
pub(crate) struct Container {
    /// As it was created; see [`status`](Self::status).
    created: ContainerState,
    pub(crate) control: Arc<Control>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) metered: bool,
    ready: Mutex<Option<Ready>>,
    ended: watch::Sender<Option<Ended>>,
}

/// What a container needs to start.
pub(crate) struct Ready {
    pub(crate) linked: Linked,
    pub(crate) engine: &'static Engine,
    pub(crate) setup: ProgramSetup,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) http_concurrency: usize,
    /// Dropped when the container has ended.
    pub(crate) listening: Listening,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("setup", &self.setup)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Container {
    pub(crate) fn new(created: ContainerState, deadline: Option<Duration>, ready: Ready) -> Self {
        Self {
            created,
            control: Arc::new(Control::new(ready.engine)),
            usage: ready.setup.usage.clone(),
            metered: ready.setup.fuel.is_some(),
            deadline,
            ready: Mutex::new(Some(ready)),
            ended: watch::Sender::new(None),
        }
    }

    fn ready(&self) -> MutexGuard<'_, Option<Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> Status {
        if self.ended.borrow().is_some() {
            Status::Stopped
        } else if self.ready().is_some() {
            Status::Created
        } else if self.control.paused() {
            Status::Paused
        } else {
            Status::Running
        }
    }

    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            status: self.status(),
            ..self.created.clone()
        }
    }

    pub(crate) fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    /// Waits for the end.
    pub(crate) async fn exit(&self) -> Exit {
        match self.ended().wait_for(Option::is_some).await {
            Ok(ended) => ended.as_ref().map_or(Exit::exited(255), |e| e.exit),
            // This container has the sender.
            Err(_) => Exit::exited(255),
        }
    }

    /// Starts the program on a thread of its own; the error says why it could not.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), String> {
        let Some(ready) = self.ready().take() else {
            return Err("it was started already".to_owned());
        };
        let (started, starting) = oneshot::channel();
        let container = self.clone();
        let handle = Handle::current();
        std::thread::Builder::new()
            .name(format!("wasm-{}", self.created.id))
            .stack_size(THREAD_STACK)
            .spawn(move || container.live(ready, &handle, started))
            .map_err(|e| format!("no thread for it: {e}"))?;
        if let Some(deadline) = self.deadline {
            let (control, mut ended) = (self.control.clone(), self.ended());
            tokio::spawn(async move {
                let over = ended.wait_for(Option::is_some);
                if tokio::time::timeout(deadline, over).await.is_err() {
                    control.end(Verdict::Deadline);
                }
            });
        }
        match tokio::time::timeout(INSTANTIATION, starting).await {
            Ok(Ok(Err(reason))) => Err(reason),
            // Instantiated; or its start function is running; or it has ended already.
            _ => Ok(()),
        }
    }

    /// The container's thread.
    fn live(&self, ready: Ready, handle: &Handle, started: oneshot::Sender<Result<(), String>>) {
        let Ready {
            linked,
            engine,
            setup,
            listeners,
            http_concurrency,
            listening,
        } = ready;
        self.usage.thread_begins();
        let mut ending = Ending {
            container: self,
            streams: Some(setup.streams.clone()),
            listening: Some(listening),
            ended: None,
        };
        ending.ended = Some(match linked {
            Linked::Proxy(pre) => Server {
                pre,
                engine,
                setup,
                concurrency: http_concurrency,
                control: self.control.clone(),
                deadline: self.deadline,
            }
            .run(&self.created.id, listeners, started),
            linked => handle.block_on(self.run(linked, engine, &setup, listeners, started)),
        });
    }

    /// Runs a command to its end.
    async fn run(
        &self,
        linked: Linked,
        engine: &Engine,
        setup: &ProgramSetup,
        listeners: Vec<TcpListener>,
        started: oneshot::Sender<Result<(), String>>,
    ) -> Ended {
        let store = Sockets::new(listeners, !setup.directories.is_empty())
            .and_then(|sockets| setup.store(engine, sockets));
        let mut store = match store {
            Ok(store) => store,
            Err(error) => return Ended::before_start(&error, started),
        };
        let program = call(&linked, &mut store, started);
        let result = Gate::new(self.control.clone(), self.usage.yields.clone(), program).await;
        if let (Some(fuel), Ok(left)) = (setup.fuel, store.get_fuel()) {
            self.usage.ended(fuel - left);
        }
        Ended::new(result, setup, self.deadline)
    }

    /// Sends a signal, as far as there is anything like that here.
    pub(crate) fn signal(self: &Arc<Self>, signal: Signal) {
        const SIGSTOP: i32 = 19;
        const SIGCONT: i32 = 18;
        match signal {
            Signal::KILL => self.kill(),
            Signal(SIGSTOP) => self.control.set_paused(true),
            Signal(SIGCONT) => self.control.set_paused(false),
            Signal(1 | 2 | 3 | 15) => self.control.ask(signal.0),
            Signal(_) => {}
        }
    }

    /// Ends the container. If it was asked to end before, the exit code says so (143 after
    /// SIGTERM): WASI has no signals, so only this ends it.
    fn kill(self: &Arc<Self>) {
        let signal = self.control.asked().borrow().unwrap_or(SIGKILL);
        self.control.end(Verdict::Killed(signal));
        let killed = Ended::by_verdict(Verdict::Killed(signal), None);
        if self.ready().take().is_some() {
            self.publish(killed, None);
            return;
        }
        let container = self.clone();
        tokio::spawn(async move {
            let mut ended = container.ended();
            let over = ended.wait_for(Option::is_some);
            if tokio::time::timeout(STUCK, over).await.is_err() {
                tracing::warn!(id = %container.created.id, "a killed container is stuck in a system call and is left behind");
                container.publish(killed, None);
            }
        });
    }

    fn publish(&self, ended: Ended, streams: Option<Streams>) {
        if let (Some(message), Some(streams)) = (&ended.message, &streams) {
            streams.say(message);
        }
        // The streams close before the end is reported: their readers see everything.
        drop(streams);
        set_once(&self.ended, ended);
    }
}

/// The end of a container's thread, which is reported to all that wait for the container, even when
/// the thread panics and unwinds. Where panics abort, as in magikrun's release builds, a defect of
/// the runtime ends the process, and with it the pod.
struct Ending<'a> {
    container: &'a Container,
    streams: Option<Streams>,
    listening: Option<Listening>,
    ended: Option<Ended>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        drop(self.listening.take());
        self.container.usage.thread_ends();
        let ended = self.ended.take().unwrap_or_else(|| {
            Ended::trapped(
                ExitReason::Trap,
                "the runtime failed inside a call of the program's",
            )
        });
        self.container.publish(ended, self.streams.take());
    }
}

/// Instantiates and runs a command; the result is its exit code.
async fn call(
    linked: &Linked,
    store: &mut Store<Host>,
    started: oneshot::Sender<Result<(), String>>,
) -> wasmtime::Result<i32> {
    let instantiated = |error: Option<&wasmtime::Error>| {
        // The caller may have gone.
        let _ = started.send(match error {
            // A start function that exits, or meets a limit, is a program that ran.
            Some(e) if !e.is::<I32Exit>() && !e.is::<LimitReached>() && !e.is::<Trap>() => Err(one_line(e)),
            _ => Ok(()),
        });
    };
    match linked {
        Linked::Module(pre) => {
            let instance = pre.instantiate_async(&mut *store).await;
            instantiated(instance.as_ref().err());
            let start = instance?.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(store, ()).await?;
            Ok(0)
        }
        Linked::Command(pre) => {
            let command = pre.instantiate_async(&mut *store).await;
            instantiated(command.as_ref().err());
            let result = command?.wasi_cli_run().call_run(store).await?;
            Ok(i32::from(result.is_err()))
        }
        Linked::Proxy(_) => wasmtime::bail!("a proxy is not a command"),
    }
}
