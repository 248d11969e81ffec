//! Serving `wasi:http/proxy`: an instance per request, as many at a time as the container may have.

use std::{
    net,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioTimer;
use magik_oci::{ContainerId, ExitReason};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
};
use wasmtime::Engine;
use wasmtime_wasi_http::{
    WasiHttpView,
    io::TokioIo,
    p2::{
        bindings::{ProxyPre, http::types::Scheme},
        body::HyperOutgoingBody,
    },
};

use crate::{
    control::{Control, Gate},
    ended::{Ended, explain},
    host::{Host, ProgramSetup},
    limits::HTTP_REQUEST_TIMEOUT,
    sockets::Sockets,
};

/// Connections for each concurrent request; more wait to be accepted.
const CONNECTIONS_PER_REQUEST: usize = 4;

/// The most threads that answer requests.
const MAX_WORKERS: usize = 4;

/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often programs without fuel let each other run.
const TURN: Duration = Duration::from_millis(10);

/// After how many turns of programs a thread looks for what came in; tokio's own is 61.
const TURNS_PER_LOOK: u32 = 8;

/// How long the threads may take to stop when the container has ended.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// A container that answers requests.
pub(crate) struct Server {
    pub(crate) pre: ProxyPre<Host>,
    pub(crate) engine: &'static Engine,
    pub(crate) setup: ProgramSetup,
    pub(crate) concurrency: usize,
    pub(crate) control: Arc<Control>,
    pub(crate) deadline: Option<Duration>,
}

/// What all requests share.
struct Service {
    server: Server,
    requests: Arc<Semaphore>,
    turns: Arc<Turns>,
}

/// Without fuel a program yields only when the epoch moves. A thread of its own moves it while
/// requests are answered: the runtime's threads may all be in programs.
#[derive(Debug, Default)]
struct Turns {
    state: Mutex<Taking>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Taking {
    /// How many requests are being answered.
    active: usize,
    over: bool,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, Taking> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>) -> Turn {
        self.state().active += 1;
        self.changed.notify_one();
        Turn(self.clone())
    }

    /// Moves the epoch until it is over.
    fn take(&self, engine: &Engine) {
        loop {
            let state = self.state();
            let idle = |taking: &mut Taking| taking.active == 0 && !taking.over;
            let state = self.changed.wait_while(state, idle);
            if state.unwrap_or_else(PoisonError::into_inner).over {
                return;
            }
            std::thread::sleep(TURN);
            engine.increment_epoch();
        }
    }
}

/// A request that is being answered.
struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state().active -= 1;
    }
}

/// Ends the thread that makes programs take turns.
struct Over(Arc<Turns>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.changed.notify_one();
    }
}

impl Server {
    /// Serves until the container ends, or all are answered after it was asked to end.
    pub(crate) fn run(
        self,
        id: &ContainerId,
        listeners: Vec<net::TcpListener>,
        started: oneshot::Sender<Result<(), String>>,
    ) -> Ended {
        let usage = self.setup.usage.clone();
        let (begin, end) = (usage.clone(), usage);
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_WORKERS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .event_interval(TURNS_PER_LOOK)
            .thread_name(format!("wasm-{id}"))
            .on_thread_start(move || begin.thread_begins())
            .on_thread_stop(move || end.thread_ends())
            .enable_all()
            .build();
        let served = runtime.and_then(|runtime| {
            let _entered = runtime.enter();
            let listeners = listeners
                .into_iter()
                .map(|listener| {
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                })
                .collect::<std::io::Result<Vec<_>>>()?;
            Ok((runtime, listeners))
        });
        match served {
            Ok((runtime, listeners)) => {
                let _ = started.send(Ok(()));
                let ended = runtime.block_on(self.serve(listeners));
                runtime.shutdown_timeout(SHUTDOWN);
                ended
            }
            Err(error) => Ended::before_start(&error, started),
        }
    }

    async fn serve(self, listeners: Vec<TcpListener>) -> Ended {
        let connections = self.concurrency.saturating_mul(CONNECTIONS_PER_REQUEST);
        let connecting = Arc::new(Semaphore::new(connections));
        let mut verdict = self.control.verdict();
        let mut asked = self.control.asked();
        let draining = watch::Sender::new(false);
        let service = Arc::new(Service {
            requests: Arc::new(Semaphore::new(self.concurrency)),
            turns: Arc::default(),
            server: self,
        });
        let _over = Over(service.turns.clone());
        if service.server.setup.fuel.is_none() {
            let (turns, engine) = (service.turns.clone(), service.server.engine);
            let thread = std::thread::Builder::new()
                .name("wasm-turns".to_owned())
                .spawn(move || turns.take(engine));
            if let Err(error) = thread {
                return Ended::trapped(ExitReason::Trap, &format!("no thread for it: {error}"));
            }
        }
        let mut tasks = tokio::task::JoinSet::new();
        for listener in listeners {
            tasks.spawn(accept(
                listener,
                service.clone(),
                connecting.clone(),
                draining.subscribe(),
            ));
        }
        let drained = async {
            // The sender lives as long as the container.
            let _ = asked.wait_for(Option::is_some).await;
            tasks.shutdown().await;
            draining.send_replace(true);
            let all = u32::try_from(connections).unwrap_or(u32::MAX);
            let _ = connecting.acquire_many(all).await;
        };
        tokio::select! {
            biased;
            verdict = verdict.wait_for(Option::is_some) => match verdict.ok().and_then(|v| *v) {
                Some(verdict) => Ended::by_verdict(verdict, service.server.deadline),
                None => Ended::exited(0),
            },
            () = drained => Ended::exited(0),
        }
    }
}

async fn accept(
    listener: TcpListener,
    service: Arc<Service>,
    connecting: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
) {
    loop {
        let Ok(permit) = connecting.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                // It runs on its own.
                drop(tokio::spawn(connection(
                    stream,
                    service.clone(),
                    draining.clone(),
                    permit,
                )));
            }
            Err(error) => {
                // No descriptors, or the client has gone: the container goes on.
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(TURN).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    service: Arc<Service>,
    mut draining: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let drained = async { draining.wait_for(|d| *d).await.is_ok() };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = drained => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<HyperOutgoingBody> {
        match self.try_answer(request).await {
            Ok(response) => response,
            Err((status, message)) => {
                let body = Full::new(Bytes::from(format!("{message}\n")));
                let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
                *response.status_mut() = status;
                response
            }
        }
    }

    async fn try_answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<HyperOutgoingBody>, (StatusCode, &'static str)> {
        const FAILED: (StatusCode, &str) = (StatusCode::INTERNAL_SERVER_ERROR, "the program failed");
        let Ok(permit) = self.requests.clone().acquire_owned().await else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "the container is ending"));
        };
        let bad = |_| (StatusCode::BAD_REQUEST, "not a request this server answers");
        let (sender, receiver) = oneshot::channel();
        let Server { setup, engine, .. } = &self.server;
        let mut store = setup.store(engine, Sockets::default()).map_err(|error| {
            self.say(&error.to_string());
            FAILED
        })?;
        let (request, out) = {
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(Scheme::Http, request).map_err(bad)?;
            (request, http.new_response_outparam(sender).map_err(bad)?)
        };

        // The program may go on after it has sent the head of its response.
        let service = self.clone();
        let task = tokio::spawn(async move {
            let _permit = permit;
            let Server { setup, control, .. } = &service.server;
            let turn = service.turns.begin();
            let program = async {
                let proxy = service.server.pre.instantiate_async(&mut store).await?;
                proxy
                    .wasi_http_incoming_handler()
                    .call_handle(&mut store, request, out)
                    .await
            };
            let gate = Gate::new(
                control.clone(),
                setup.usage.yields.clone(),
                tokio::time::timeout(HTTP_REQUEST_TIMEOUT, program),
            );
            let result = gate.await;
            drop(turn);
            if let (Some(fuel), Ok(left)) = (setup.fuel, store.get_fuel()) {
                setup.usage.ended(fuel - left);
            }
            match result {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => {
                    let (reason, message) = explain(&error, setup.fuel);
                    service.say(&format!("{reason}: {message}"));
                }
                Ok(Err(_)) => service.say(&format!(
                    "{}: a request took longer than {} s",
                    ExitReason::DeadlineExceeded,
                    HTTP_REQUEST_TIMEOUT.as_secs()
                )),
                Err(_) => {}
            }
        });
        match receiver.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(code)) => {
                tracing::debug!(?code, "the program answered with an error");
                Err((StatusCode::BAD_GATEWAY, "the program answered with an error"))
            }
            // The program ended without an answer; it has said why.
            Err(_) => {
                let _ = task.await;
                Err(FAILED)
            }
        }
    }

    /// A line on the container's standard error.
    fn say(&self, line: &str) {
        self.server.setup.streams.say(line);
    }
}
