//! Ports of a pod on the host: the launcher listens for them, in its own network, and the pod's init answers.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use super::failure::Failure;
use crate::{ContainerSpec, PodSpec};

/// A port that the host listens for.
struct Published<'a> {
    container: &'a ContainerSpec,
    /// Which of the container's ports it is.
    index: usize,
    port: u16,
    address: SocketAddr,
}

/// In a pod on the host's network the containers listen there themselves.
fn published(spec: &PodSpec) -> impl Iterator<Item = Published<'_>> {
    let containers = spec.all_containers().filter(|_| !spec.host_network);
    containers.flat_map(|container| {
        let ports = container.ports.iter().enumerate();
        ports.filter_map(move |(index, port)| {
            Some(Published {
                container,
                index,
                port: port.container_port,
                address: port.host?,
            })
        })
    })
}

/// The pod's ports, as a plan has them: in the order of [`listen`].
pub(super) fn ports(spec: &PodSpec) -> Vec<u16> {
    published(spec).map(|p| p.port).collect()
}

/// Listens for all of them.
///
/// # Errors
/// Names the container, the field and the address that cannot be had.
pub(super) fn listen(spec: &PodSpec) -> Result<Vec<OwnedFd>, Failure> {
    let listen = |p: Published<'_>| {
        let listener = TcpListener::bind(p.address).map_err(|e| Failure {
            container: Some(p.container.name.clone()),
            reason: format!("ports[{}].hostPort: listen on {}: {e}", p.index, p.address),
        })?;
        Ok(listener.into())
    };
    published(spec).map(listen).collect()
}
