//! Accepting connections, a bounded number of them, from those who may.

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use ttrpc::r#async::{Server, transport::Listener};

use super::Connection;
use crate::{
    containers::Containers,
    rpc::control_ttrpc::create_control,
    shared::Shared,
    wire::{Meter, Role, Wire},
};

/// How many connections are served at once; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 64;
/// How long to wait when accepting fails (out of descriptors), before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where control connections come from: a unix socket on the host; in a microVM, vsock.
pub trait Acceptor: Send + 'static {
    /// What a connection is.
    type Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static;

    /// The next connection of somebody who may use the service.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Takes connections of this process's own user and of root.
impl Acceptor for UnixListener {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = UnixListener::accept(self).await?;
            let uid = stream.peer_cred()?.uid();
            if uid == 0 || uid == rustix::process::geteuid().as_raw() {
                return Ok(stream);
            }
            tracing::warn!(uid, "refused a control connection");
        }
    }
}

/// The connections of one pod init.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
    containers: Arc<dyn Containers>,
    places: Arc<Semaphore>,
    open: Arc<Mutex<Vec<Weak<Meter>>>>,
}

impl Connections {
    pub(crate) fn new(shared: Arc<Shared>, containers: Arc<dyn Containers>) -> Self {
        Self {
            shared,
            containers,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            open: Arc::default(),
        }
    }

    /// Serves whoever connects, for ever.
    pub(crate) async fn accept<A: Acceptor>(self, mut acceptor: A) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else {
                return;
            };
            match acceptor.accept().await {
                Ok(stream) => {
                    self.serve_in(stream, false, Some(place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection in the background.
    pub(crate) fn serve<S>(&self, stream: S, is_launch: bool) -> Arc<Meter>
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        self.serve_in(stream, is_launch, None)
    }

    fn serve_in<S>(&self, stream: S, is_launch: bool, place: Option<OwnedSemaphorePermit>) -> Arc<Meter>
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let meter = Meter::new();
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|m| m.strong_count() > 0);
            open.push(Arc::downgrade(&meter));
        }
        let connection = Connection::new(
            self.shared.clone(),
            self.containers.clone(),
            meter.clone(),
            is_launch,
        );
        let wire = Wire::new(stream, Role::Server, meter.clone(), place);
        let one = futures_util::stream::iter([Ok(wire)]);
        let mut server = Server::new()
            .register_service(create_control(Arc::new(connection)))
            .add_listener(Listener::new(one));
        let closed = meter.clone();
        tokio::spawn(async move {
            // A listener was added: starting cannot fail. Dropping the server ends the connection.
            let _ = server.start().await;
            closed.closed().await;
        });
        meter
    }

    /// Waits until every call on every connection has been answered.
    pub(crate) async fn idle(&self) {
        let open: Vec<_> = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for meter in open {
            meter.idle().await;
        }
    }
}
