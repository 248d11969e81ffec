//! How a request reaches a worker that is another program.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::job::Request;

/// The largest request in bytes: an exec's whole process, environment included.
const MAX_REQUEST_SIZE: usize = 16 << 20;
/// The most descriptors sent along: three streams, a console, where an exec reports, a runner's, and those to preserve.
const MAX_DESCRIPTORS: usize = 64;

/// Sends a request with its descriptors: a length, then JSON; the descriptors go with the length.
pub(crate) fn send(socket: &OwnedFd, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(request).map_err(io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&length)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut length)], &mut control, flags)?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
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
