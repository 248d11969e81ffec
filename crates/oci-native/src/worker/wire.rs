//! How a request reaches a worker that is another program.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use magik_sys::socket;
use rustix::net::{RecvFlags, SendFlags};

use crate::job::Request;

/// The largest request in bytes: an exec's whole process, environment included.
const MAX_REQUEST_SIZE: usize = 16 << 20;

/// Sends a request with its descriptors: a length, then JSON; the descriptors go with the length.
pub(crate) fn send(socket: &OwnedFd, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(request).map_err(io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes();
    socket::send(socket, &length, descriptors)?;
    let mut rest = json.as_slice();
    while !rest.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::net::send(socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[n..];
    }
    Ok(())
}

/// Receives one.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<(Request, Vec<OwnedFd>)> {
    let mut length = [0_u8; 4];
    let (received, descriptors) = socket::receive(socket, &mut length, RecvFlags::WAITALL)?;
    if received != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_REQUEST_SIZE {
        return Err(io::Error::other("the request is too long"));
    }
    let mut json = vec![0; length];
    std::fs::File::from(socket.as_fd().try_clone_to_owned()?).read_exact(&mut json)?;
    Ok((
        serde_json::from_slice(&json).map_err(io::Error::other)?,
        descriptors,
    ))
}
