//! The namespaces of a new container: which are new, which are joined, and what is set up in them.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Kind, LinuxTimeOffset};
use rustix::{
    fs::{Mode, OFlags},
    process::Pid,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{failure::Failure, process::birth};

/// The namespaces of the spec; those to be joined are open.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    new: Vec<Kind>,
    joined: Vec<(Kind, OwnedFd)>,
}

impl Namespaces {
    /// Opens those to be joined, by their paths on the host.
    pub(super) fn open(linux: &Linux) -> Result<Self, Failure> {
        let mut this = Self::default();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = namespace.typ();
            let Some(path) = namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) else {
                this.new.push(kind);
                continue;
            };
            let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let failed = |e| Failure::Other(format!("namespace {kind}: {}: {e}", path.display()));
            this.joined.push((kind, opened.map_err(failed)?));
        }
        this.check_pid()?;
        Ok(this)
    }

    pub(super) fn makes(&self, kind: Kind) -> bool {
        self.new.contains(&kind)
    }

    pub(super) fn joined(&self, kind: Kind) -> Option<&OwnedFd> {
        self.joined.iter().find(|(k, _)| *k == kind).map(|(_, fd)| fd)
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.joined.iter().map(|(_, fd)| fd)
    }

    /// Whether the container has one that is not the runtime's.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.makes(kind) || self.joined(kind).is_some()
    }

    /// Whether a process in the container's user namespace could not enter some of them.
    pub(super) fn need_intermediate(&self) -> bool {
        let mut others = self.joined.iter().filter(|(kind, _)| *kind != Kind::Pid);
        self.joined(Kind::User).is_some() || self.makes(Kind::User) && others.next().is_some()
    }

    /// `CLONE_NEW*` of those that the container's process is born in. The others need it to be in
    /// its cgroup, or concern children only.
    pub(super) fn born_in(&self) -> i32 {
        let flag = |kind: &Kind| match kind {
            Kind::Mount => libc::CLONE_NEWNS,
            Kind::Uts => libc::CLONE_NEWUTS,
            Kind::Ipc => libc::CLONE_NEWIPC,
            Kind::User => libc::CLONE_NEWUSER,
            Kind::Pid => libc::CLONE_NEWPID,
            Kind::Network => libc::CLONE_NEWNET,
            Kind::Cgroup | Kind::Time => 0,
        };
        self.new.iter().map(flag).fold(0, |all, flag| all | flag)
    }

    /// A new time namespace for this process's children.
    pub(super) fn make_time(&self, linux: &Linux) -> io::Result<()> {
        if !self.makes(Kind::Time) {
            return Ok(());
        }
        unshare(UnshareFlags::NEWTIME)?;
        let offset = |(clock, offset): (&String, &LinuxTimeOffset)| {
            let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {secs} {nanosecs}\n")
        };
        let offsets: String = linux.time_offsets().iter().flatten().map(offset).collect();
        if offsets.is_empty() {
            return Ok(());
        }
        fs::write("/proc/self/timens_offsets", offsets)
    }

    /// Enters the joined namespaces, user last. The pid namespace is for children, and waits.
    pub(super) fn join(&self) -> Result<(), Failure> {
        let users = |(kind, _): &&(Kind, OwnedFd)| *kind == Kind::User;
        let early = self.joined.iter().filter(|one| !users(one));
        for (kind, fd) in early.chain(self.joined.iter().filter(users)) {
            if *kind != Kind::Pid {
                enter(*kind, fd)?;
            }
        }
        Ok(())
    }

    /// Makes children start in the joined pid namespace; `false` if none is joined.
    pub(super) fn set_pid_for_children(&self) -> Result<bool, Failure> {
        let joined = self.joined(Kind::Pid);
        joined.map_or(Ok(false), |fd| enter(Kind::Pid, fd).map(|()| true))
    }

    /// Runs `act` while children start in the joined pid namespace.
    pub(super) fn with_pid_for_children<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let own = rustix::fs::open(
            "/proc/self/ns/pid",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if let Some(joined) = self.joined(Kind::Pid) {
            move_into_link_name_space(joined.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        }
        let done = act();
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        done
    }

    /// Whether a process in the joined pid namespace may trace any process in it.
    pub(super) fn pids_are_traced(&self) -> io::Result<bool> {
        let Some(joined) = self.joined(Kind::Pid) else {
            return Ok(false);
        };
        birth::are_traced(&rustix::fs::fstat(joined)?)
    }

    /// Checks early that the file to be joined as a pid namespace is one.
    fn check_pid(&self) -> Result<(), Failure> {
        match self.joined(Kind::Pid).map(namespace_type) {
            None | Some(Ok(libc::CLONE_NEWPID)) => Ok(()),
            Some(Ok(_)) => Err(Failure::Other("namespace pid: is of another type".into())),
            Some(Err(e)) => Err(Failure::Other(format!("namespace pid: {e}"))),
        }
    }
}

/// ioctl_nsfs(2), `NS_GET_NSTYPE`.
#[allow(unsafe_code, reason = "rustix has no ioctl of nsfs")]
fn namespace_type(fd: &OwnedFd) -> io::Result<libc::c_int> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request takes no argument; of another kind of file it is an error.
    match unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) } {
        -1 => Err(io::Error::last_os_error()),
        kind => Ok(kind),
    }
}

fn enter(kind: Kind, fd: &OwnedFd) -> Result<(), Failure> {
    let typ = match kind {
        Kind::Mount => LinkNameSpaceType::Mount,
        Kind::Cgroup => LinkNameSpaceType::ControlGroup,
        Kind::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        Kind::Ipc => LinkNameSpaceType::InterProcessCommunication,
        Kind::User => LinkNameSpaceType::User,
        Kind::Pid => LinkNameSpaceType::ProcessID,
        Kind::Network => LinkNameSpaceType::Network,
        Kind::Time => LinkNameSpaceType::Time,
    };
    move_into_link_name_space(fd.as_fd(), Some(typ))
        .map_err(|e| Failure::Other(format!("namespace {kind}: {e}")))
}

#[allow(unsafe_code, reason = "unshare can do more than what is asked of it here")]
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no descriptor table is unshared, and this process has one thread.
    unsafe { unshare_unsafe(flags)? };
    Ok(())
}

/// Writes the maps of a process's new user namespace (user_namespaces(7)).
pub(super) fn map_ids(
    of: Pid,
    uids: Option<&Vec<LinuxIdMapping>>,
    gids: Option<&Vec<LinuxIdMapping>>,
) -> io::Result<()> {
    let file = |name: &str| format!("/proc/{}/{name}", of.as_raw_nonzero());
    let lines = |mappings: Option<&Vec<LinuxIdMapping>>| -> String {
        let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
        mappings.into_iter().flatten().map(line).collect()
    };
    // Without root one can only map the own group, after setgroups(2) is denied.
    if !rustix::process::geteuid().is_root() {
        fs::write(file("setgroups"), "deny")?;
    }
    for (name, text) in [("gid_map", lines(gids)), ("uid_map", lines(uids))] {
        if !text.is_empty() {
            fs::write(file(name), text).map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))?;
        }
    }
    Ok(())
}

/// netdevice(7): a new network namespace starts with loopback down.
#[allow(unsafe_code, reason = "rustix has no ioctl for interface flags")]
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zero is a valid `ifreq`; its name is NUL-terminated and its flags are the member
    // this ioctl reads. The kind of request is an int in musl, a long elsewhere.
    let answer = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Writes sysctls through the host's own `/proc`, which no image can have prepared
/// (CVE-2025-52881). The namespaces that the writer is in get them.
pub(super) fn set_sysctls(sysctls: &HashMap<String, String>) -> Result<(), Failure> {
    sysctls.iter().try_for_each(|(name, value)| {
        magik_sys::sysctl::set(&name.replace('.', "/"), value)
            .map_err(|e| Failure::Other(format!("linux.sysctl {name}: {e}")))
    })
}
