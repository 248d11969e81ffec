//! Ports of the pod on the host (`hostPort`): what connects to a listener of the host's is connected to the pod's loopback.
//!
//! The launcher listens, where the host's network still is its own, and hands the listeners to the init. Nobody is answered
//! before the pod is up; connections that come earlier wait in the kernel.

use std::{net::TcpListener, sync::Arc, time::Duration};

use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream, sync::Semaphore, task::JoinSet, time::sleep};

use crate::{
    guest::{Guest, forward},
    init::shared::Place,
};

/// The most connections through published ports that a pod has at a time; others wait to be accepted.
pub const MAX_PUBLISHED_CONNECTIONS: usize = 256;
/// How much of each direction of a connection is held, in bytes.
const BUFFER: usize = 8 << 10;
/// How long nothing is accepted after it has failed: descriptors or memory may be short for a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves listeners until what is returned is dropped; the connections end with it. `ports`: the pod's, in the listeners' order.
pub(crate) fn serve(listeners: Vec<TcpListener>, ports: &[u16], place: &Place) -> JoinSet<()> {
    let slots = Arc::new(Semaphore::new(MAX_PUBLISHED_CONNECTIONS));
    let guest = match place {
        Place::Here(_) => None,
        Place::Guest(guest) => Some(guest.clone()),
    };
    let mut tasks = JoinSet::new();
    for (listener, port) in listeners.into_iter().zip(ports) {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        match listener {
            Ok(listener) => {
                tasks.spawn(accept(listener, *port, guest.clone(), slots.clone()));
            }
            Err(error) => tracing::error!(port, %error, "the port is not published"),
        }
    }
    tasks
}

async fn accept(
    listener: tokio::net::TcpListener,
    port: u16,
    guest: Option<Arc<dyn Guest>>,
    slots: Arc<Semaphore>,
) {
    let mut connections = JoinSet::new();
    // Nobody closes the semaphore.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let accepted = listener.accept().await;
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((client, _)) => {
                let guest = guest.clone();
                connections.spawn(async move {
                    match guest {
                        None => here(client, port).await,
                        Some(guest) => in_guest(client, port, &*guest).await,
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(port, %error, "accept");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A client whose port nobody listens at is hung up on.
async fn here(mut client: TcpStream, port: u16) {
    match TcpStream::connect(("127.0.0.1", port)).await {
        Ok(mut pod) => {
            // That one end broke the connection is told to the other one by the descriptors' end.
            let _ = copy_bidirectional_with_sizes(&mut client, &mut pod, BUFFER, BUFFER).await;
        }
        Err(error) => tracing::debug!(port, %error, "nobody is reached"),
    }
}

async fn in_guest(client: TcpStream, port: u16, guest: &dyn Guest) {
    let copied = async {
        let forward = forward::connect(guest).await?.port_forward(port).await?;
        forward.copy(client).await
    };
    if let Err(error) = copied.await {
        tracing::debug!(port, %error, "the connection into the guest ended");
    }
}
