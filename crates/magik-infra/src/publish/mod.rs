//! Ports of the pod on the host (`hostPort`): what connects to a listener of the host's is connected to the pod's loopback.
//!
//! The launcher listens, where the host's network still is its own, and hands the listeners to the init. Nobody is answered
//! before the pod is up; connections that come earlier wait in the kernel.
//!
//! A pod has at most [`MAX_PUBLISHED_CONNECTIONS`] connections at a time. Nobody can hold them by doing nothing, and no peer
//! can keep others out:
//!
//! - A connection that carries nothing in either direction for [`IDLE_TIMEOUT`] is closed; once one side has closed its
//!   direction, after [`HALF_CLOSED_TIMEOUT`].
//! - When all are taken, a newcomer gets the place of the connection that has carried nothing for longest, of the peer that has
//!   most of them: at once if the newcomer's peer has fewer, else once that connection has been idle for [`YIELD_AFTER`].
//! - Those that find no place wait, at most [`MAX_WAITING`] of them; then the peer that waits with most is refused.
//!
//! A peer is an IPv4 address or the first 64 bits of an IPv6 address, which is what one network is given.

mod connections;
mod watched;

use std::{net::TcpListener, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::mpsc, task::JoinSet, time::sleep};

use self::connections::{Arrival, Connections};
use crate::containers::Containers;

/// The most connections through published ports that a pod has at a time.
pub const MAX_PUBLISHED_CONNECTIONS: usize = 256;
/// How long a connection through a published port may carry nothing: as long as IPVS, and so kube-proxy, lets it.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The same for a connection one side of which has closed its direction (IPVS again).
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// How long a connection must have carried nothing to give its place to one of the same peer.
pub const YIELD_AFTER: Duration = Duration::from_secs(1);
/// The most connections that were accepted and wait for a place.
pub const MAX_WAITING: usize = 64;
/// How long nothing is accepted after it has failed: descriptors or memory may be short for a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves listeners until what is returned is dropped; the connections end with it. `ports`: the pod's, in the listeners' order.
pub(crate) fn serve(
    listeners: Vec<TcpListener>,
    ports: &[u16],
    containers: &Arc<dyn Containers>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (arrivals, arrived) = mpsc::channel(1);
    for (listener, port) in listeners.into_iter().zip(ports) {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        match listener {
            Ok(listener) => {
                tasks.spawn(accept(listener, *port, arrivals.clone()));
            }
            Err(error) => tracing::error!(port, %error, "the port is not published"),
        }
    }
    let containers = containers.clone();
    let connections = Connections::new(move |client, port| {
        let containers = containers.clone();
        async move { containers.connect(Box::new(client), port).await }
    });
    if !tasks.is_empty() {
        tasks.spawn(connections.serve(arrived));
    }
    tasks
}

async fn accept(listener: tokio::net::TcpListener, port: u16, arrivals: mpsc::Sender<Arrival<TcpStream>>) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let arrival = Arrival {
                    stream,
                    peer: address.into(),
                    port,
                };
                if arrivals.send(arrival).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(port, %error, "accept");
                sleep(PAUSE).await;
            }
        }
    }
}
