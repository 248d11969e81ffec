//! Namespaces, root directory, user and capabilities.

use std::{
    io,
    path::{Path, PathBuf},
};

use magik_vm::{Jail, KVM, Share, VmmConfig, VmmPort};
use rustix::{
    fs::StatVfsMountFlags,
    process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags},
};

/// Reading every file of a read-only share, whoever owns it.
const TO_READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;
/// Serving a share that the guest writes to: what virtiofsd has, but without making device files.
const TO_WRITE: CapabilitySet = TO_READ
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// A process that could not be confined, and does not go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ConfineError {
    /// What was being done.
    what: &'static str,
    /// The kernel's answer.
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |e| ConfineError {
        what,
        source: e.into(),
    }
}

/// What is left to the machine.
#[derive(Debug)]
pub struct Confinement<'a> {
    config: &'a VmmConfig,
}

/// A machine's files by the paths they have in its process's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// The directory it boots from.
    pub root: PathBuf,
    /// Further directories, and whether each is read-only.
    pub shares: Vec<(Share, bool)>,
    /// The sockets it may dial.
    pub ports: Vec<VmmPort>,
}

impl<'a> Confinement<'a> {
    /// For this machine.
    #[must_use]
    pub const fn new(config: &'a VmmConfig) -> Self {
        Self { config }
    }

    /// Confines the calling thread, which is the process's only one: it needs root's capabilities, and what it has opened or
    /// loaded stays open.
    ///
    /// # Errors
    /// Names the step that failed.
    pub fn enter(self) -> Result<Confined, ConfineError> {
        let parent = rustix::process::getppid();
        limits()?;
        rustix::thread::set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
        namespaces()?;
        let confined = self.root().map_err(|e| ConfineError {
            what: "make a root of its own",
            source: io::Error::other(e),
        })?;
        let writes = confined.shares.iter().any(|(_, read_only)| !read_only);
        privileges(self.config.user, if writes { TO_WRITE } else { TO_READ })?;
        // The change of user has taken it away (prctl(2)).
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(failed("end with the parent"))?;
        if rustix::process::getppid() != parent {
            return Err(failed("end with the parent")(io::Error::other("it has ended")));
        }
        Ok(confined)
    }

    /// A root that holds what the machine serves and opens.
    fn root(&self) -> Result<Confined, magik_vm::Error> {
        let config = self.config;
        let jail = Jail::empty(config.jail.clone())?;
        let owner = config.user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        jail.device(Path::new(KVM), owner)?;
        let root = PathBuf::from("/root");
        jail.bind(&config.root, &root)?;
        let mut shares = Vec::new();
        for (number, share) in config.shares.iter().enumerate() {
            let directory = Path::new("/shares").join(number.to_string());
            jail.bind(&share.directory, &directory)?;
            let read_only = is_read_only(&share.directory);
            let share = Share {
                directory,
                ..share.clone()
            };
            shares.push((share, read_only));
        }
        let mut ports = Vec::new();
        for VmmPort { port, socket } in &config.ports {
            let inside = Path::new("/ports").join(port.to_string());
            jail.bind(socket, &inside)?;
            ports.push(VmmPort {
                port: *port,
                socket: inside,
            });
        }
        jail.enter()?;
        Ok(Confined { root, shares, ports })
    }
}

/// Whether nobody writes below it, whoever they are: a mount is.
fn is_read_only(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// No memory of a guest in a core file; a descriptor for every file that the guest knows.
fn limits() -> Result<(), ConfineError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(failed("limit core files"))?;
    let files = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, most).map_err(failed("raise the limit of files"))
}

#[allow(
    unsafe_code,
    reason = "unshare is unsafe for sharing no descriptors any more, which is not asked for"
)]
fn namespaces() -> Result<(), ConfineError> {
    let own = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the flags are without CLONE_FILES.
    unsafe { rustix::thread::unshare_unsafe(own) }.map_err(failed("make namespaces"))
}

/// Becomes a user with these capabilities, and nobody can become more.
fn privileges(user: Option<u32>, kept: CapabilitySet) -> Result<(), ConfineError> {
    for capability in CapabilitySet::all().difference(kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not have.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(failed("limit the capabilities")(e)),
        }
    }
    if let Some(user) = user {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        rustix::thread::set_keep_capabilities(true).map_err(failed("keep capabilities"))?;
        rustix::thread::set_thread_groups(&[]).map_err(failed("leave all groups"))?;
        rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("change the group"))?;
        rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("change the user"))?;
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(failed("give up capabilities"))?;
    // Nobody looks into its memory, which is the guest's.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("close its memory"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt, os::unix::net::UnixListener};

    use super::*;

    /// Nobody on the host.
    const USER: u32 = 64_123;

    struct Place {
        _dir: tempfile::TempDir,
        config: VmmConfig,
        _listener: UnixListener,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/pod", "share", "sockets/jail"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let secret = dir.path().join("root/pod/secret");
        fs::write(&secret, "nonce").unwrap();
        fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let socket = dir.path().join("sockets/vsock_1024");
        let listener = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::chown(&socket, Some(USER), Some(USER)).unwrap();
        let config = VmmConfig {
            memory_mib: 256,
            vcpus: 1,
            root: dir.path().join("root"),
            init: "/init".into(),
            shares: vec![],
            ports: vec![VmmPort { port: 1024, socket }],
            kernel: "/kernel".into(),
            jail: dir.path().join("sockets/jail"),
            user: Some(USER),
        };
        Place {
            _dir: dir,
            config,
            _listener: listener,
        }
    }

    /// Namespaces, root directory, user and capabilities are a thread's: one that ends shows what a process has.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn confined<T: Send + 'static>(
        test: &str,
        config: VmmConfig,
        look: impl FnOnce(Confined) -> T + Send + 'static,
    ) -> Option<T> {
        if !rustix::process::geteuid().is_root() || !Path::new(KVM).exists() {
            eprintln!("SKIPPED {test}: needs root and /dev/kvm");
            return None;
        }
        let thread = std::thread::spawn(move || {
            let confined = Confinement::new(&config).enter().unwrap();
            look(confined)
        });
        Some(thread.join().unwrap())
    }

    fn names(path: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_machine_sees_its_shares_and_nothing_of_the_host() {
        let place = place();
        confined(
            "a_machine_sees_its_shares_and_nothing_of_the_host",
            place.config,
            |confined| {
                assert_eq!(names("/"), ["dev", "ports", "proc", "root"]);
                assert_eq!(names("/dev"), ["kvm"]);
                assert_eq!(names("/ports"), ["1024"]);
                assert_eq!(confined.ports[0].socket, Path::new("/ports/1024"));
                // Whose file it is does not matter; writing is the mount's and libkrun's to refuse, and here the user's.
                assert_eq!(fs::read_to_string("/root/pod/secret").unwrap(), "nonce");
                assert!(fs::write("/root/pod/secret", "x").is_err());
                assert!(fs::write("/x", "x").is_err());
                std::os::unix::net::UnixStream::connect(&confined.ports[0].socket).unwrap();
                assert_eq!(fs::metadata(KVM).unwrap().uid(), USER);
                let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
                assert_eq!(interfaces.lines().count(), 3, "loopback alone: {interfaces}");
            },
        );
    }

    #[test]
    fn a_machine_is_a_user_of_its_own_who_may_read_and_no_more() {
        let place = place();
        confined(
            "a_machine_is_a_user_of_its_own_who_may_read_and_no_more",
            place.config,
            |_| {
                let status = fs::read_to_string("/proc/thread-self/status").unwrap();
                let field = |name: &str| {
                    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
                    line.trim_start_matches(':')
                        .split_whitespace()
                        .next()
                        .unwrap_or_default()
                        .to_owned()
                };
                assert_eq!(field("Uid"), USER.to_string());
                assert_eq!(field("Gid"), USER.to_string());
                assert_eq!(field("Groups"), "");
                assert_eq!(field("NoNewPrivs"), "1");
                for set in ["CapEff", "CapPrm", "CapBnd"] {
                    // CAP_DAC_READ_SEARCH is 2.
                    assert_eq!(field(set), "0000000000000004", "{set}");
                }
                assert_eq!(field("CapInh"), "0000000000000000");
                assert!(rustix::process::setpriority_process(None, -20).is_err());
            },
        );
    }

    #[test]
    fn a_share_that_the_guest_writes_to_takes_what_writing_takes() {
        let mut place = place();
        let directory = place.config.root.with_file_name("share");
        place.config.shares = vec![Share {
            tag: "share0".into(),
            directory,
            setuid: false,
        }];
        confined(
            "a_share_that_the_guest_writes_to_takes_what_writing_takes",
            place.config,
            |confined| {
                let (share, read_only) = &confined.shares[0];
                assert!(!read_only);
                let file = share.directory.join("file");
                fs::write(&file, "x").unwrap();
                std::os::unix::fs::chown(&file, Some(1), Some(1)).unwrap();
                let node = rustix::fs::mknodat(
                    rustix::fs::CWD,
                    share.directory.join("node"),
                    rustix::fs::FileType::CharacterDevice,
                    0o600.into(),
                    rustix::fs::makedev(1, 3),
                );
                assert_eq!(node.unwrap_err(), rustix::io::Errno::PERM);
            },
        );
    }
}
