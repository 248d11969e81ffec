//! Sockets of preview 1.
//!
//! A preview 1 program cannot open a socket, but can accept on one it is given. wasmtime-wasi has
//! none of it. So functions here that may meet a socket come before its own, and pass on what is
//! not about sockets. Except `poll_oneoff`, only modules of containers that listen get them.
//!
//! Sockets have numbers of their own, from `LISTEN_FDS_START` on: 3, as in systemd's convention,
//! for a container without directories; else numbers that no file ever gets.

mod calls;
mod memory;
mod poll;

use std::{collections::BTreeMap, io, net};

use tokio::net::{TcpListener, TcpStream};

pub(crate) use calls::{add_polling, add_to_linker, errno, parts};

/// The first number where there are directories, which take numbers from 3 on, as files do.
const BEYOND_FILES: u32 = 1 << 24;

/// The most sockets a container has at a time.
const MAX_SOCKETS: usize = 1024;

/// Error numbers of preview 1 (witx, `errno`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Errno {
    Success = 0,
    Acces = 2,
    Again = 6,
    Badf = 8,
    ConnAborted = 13,
    ConnReset = 15,
    Fault = 21,
    Inval = 28,
    Io = 29,
    Mfile = 33,
    NameTooLong = 37,
    NotConn = 53,
    NotSup = 58,
    Pipe = 64,
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Self::Again,
            io::ErrorKind::ConnectionAborted => Self::ConnAborted,
            io::ErrorKind::ConnectionReset => Self::ConnReset,
            io::ErrorKind::NotConnected => Self::NotConn,
            io::ErrorKind::BrokenPipe => Self::Pipe,
            _ => Self::Io,
        }
    }
}

/// The sockets of one program.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    first: u32,
    listeners: usize,
    open: BTreeMap<u32, Socket>,
}

#[derive(Debug)]
struct Socket {
    nonblocking: bool,
    end: End,
}

#[derive(Debug)]
enum End {
    /// A connection that polling found waits beside its listener.
    Listener(TcpListener, Option<TcpStream>),
    Stream(TcpStream),
}

impl Sockets {
    /// The sockets of a program that has directories, or none.
    pub(crate) fn new(listeners: Vec<net::TcpListener>, directories: bool) -> io::Result<Self> {
        let first = if directories { BEYOND_FILES } else { 3 };
        let mut sockets = Self {
            first,
            listeners: listeners.len(),
            open: BTreeMap::new(),
        };
        for (fd, listener) in (first..).zip(listeners) {
            listener.set_nonblocking(true)?;
            sockets.insert(fd, End::Listener(TcpListener::from_std(listener)?, None));
        }
        Ok(sockets)
    }

    /// What tells a program about its sockets.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        if self.listeners == 0 {
            return Vec::new();
        }
        vec![
            ("LISTEN_FDS", self.listeners.to_string()),
            ("LISTEN_FDS_START", self.first.to_string()),
        ]
    }

    fn insert(&mut self, fd: u32, end: End) {
        self.open.insert(
            fd,
            Socket {
                nonblocking: false,
                end,
            },
        );
    }

    fn get(&mut self, fd: i32) -> Option<&mut Socket> {
        self.open.get_mut(&fd.cast_unsigned())
    }

    /// Takes a connection in, under the lowest free number.
    fn add(&mut self, stream: TcpStream) -> Result<u32, Errno> {
        if self.open.len() >= MAX_SOCKETS {
            return Err(Errno::Mfile);
        }
        let fd = (self.first..)
            .find(|fd| !self.open.contains_key(fd))
            .ok_or(Errno::Mfile)?;
        self.insert(fd, End::Stream(stream));
        Ok(fd)
    }
}
