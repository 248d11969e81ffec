//! Messages that carry descriptors (unix(7), `SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 64;

/// The two ends of a socket that keeps messages apart.
///
/// # Errors
/// This process has too many descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends bytes, one at least, and descriptors with the first of them; returns how many bytes were
/// sent.
///
/// # Errors
/// The other end is closed, or there are more than [`MAX_DESCRIPTORS`].
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let mut fits = descriptors.len() <= MAX_DESCRIPTORS;
    if fits && !descriptors.is_empty() {
        fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    if !fits {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one message",
        ));
    }
    let sent = || sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    Ok(rustix::io::retry_on_intr(sent)?)
}

/// Receives what [`send`] sends: how many bytes, 0 if the other end is closed, and the descriptors,
/// which are close-on-exec.
///
/// # Errors
/// The kernel's; with `RecvFlags::DONTWAIT`, `WouldBlock`.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, flags))?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((received.bytes, descriptors.flatten().collect()))
}

/// Receives a message for its descriptor alone: the console of a runtime, say, whose message is its
/// name.
///
/// # Errors
/// As [`receive`]; `UnexpectedEof` if there is none in it.
pub fn receive_descriptor(socket: impl AsFd, flags: RecvFlags) -> io::Result<OwnedFd> {
    let (_, descriptors) = receive(socket, &mut [0; 512], flags)?;
    descriptors
        .into_iter()
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no descriptor was sent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_with_their_bytes() {
        let (ours, theirs) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let two = [file.as_fd(), file.as_fd()];
        assert_eq!(send(&theirs, b"text", &two).unwrap(), 4);
        let mut bytes = [0; 8];
        let (read, descriptors) = receive(&ours, &mut bytes, RecvFlags::empty()).unwrap();
        assert_eq!((&bytes[..read], descriptors.len()), (&b"text"[..], 2));
        assert!(
            rustix::io::fcntl_getfd(&descriptors[0])
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        send(&theirs, b"name", &two[..1]).unwrap();
        receive_descriptor(&ours, RecvFlags::empty()).unwrap();
        send(&theirs, b"name", &[]).unwrap();
        let none = receive_descriptor(&ours, RecvFlags::empty()).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::UnexpectedEof);
        let many = vec![file.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send(&theirs, b"x", &many).is_err());
        drop(theirs);
        assert_eq!(receive(&ours, &mut bytes, RecvFlags::empty()).unwrap().0, 0);
    }
}
