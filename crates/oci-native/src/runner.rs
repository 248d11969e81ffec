//! A program of the host in place of one from the container's file system.
//!
//! A WebAssembly module is run by a program that no image has. Otherwise the container is an
//! ordinary one. The program starts inside it, confined as any other, from descriptors: no file of
//! it is in the container's file system, and none of the container's files is used for it. The
//! dynamic loader is executed by descriptor and gets its libraries by descriptor ([`Runner`]).
//!
//! It also gets the container's root without the mounts in it ([`RootView`]): a program that it
//! gives files to must not reach `/proc/self/mem`, the runner's memory.
//!
//! What `/proc/<pid>/fd` can open again is on read-only mounts (CVE-2019-5736, `seal`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use magik_sys::{
    mount::{Attributes, clone_mount, set_attributes},
    seal::{SealError, seal_file},
    socket,
};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

/// Stands before each of the container's variables in the runner's environment: they are for the
/// program, not for the dynamic loader, the C library or the runner.
pub const ENVIRONMENT_MARK: char = '_';

/// What a runner consists of; the descriptors may have been opened with `O_PATH`.
#[derive(Debug)]
pub struct RunnerFiles {
    /// The program.
    pub binary: OwnedFd,
    /// Its dynamic loader (glibc 2.30 or later), unless it is linked statically.
    pub loader: Option<OwnedFd>,
    /// Every library it is linked with, directly or not.
    pub libraries: Vec<OwnedFd>,
}

/// A program of the host that is executed as a container's, with what it needs from the host.
///
/// Its arguments: those of [`Runner::new`]; the comma-separated numbers of the descriptors it
/// [inherits](Runner::inherit), the last of which is a socket that delivers the container's root, a
/// directory on a mount of its own without mounts below; the numbers of those it was started from,
/// to be closed; the container's `process.args`. Its environment is the container's, each variable
/// with a [mark](ENVIRONMENT_MARK). It needs `/proc` in the container.
#[derive(Debug)]
pub struct Runner {
    files: RunnerFiles,
    inputs: Vec<OwnedFd>,
    arguments: Vec<String>,
}

impl Runner {
    /// A runner with its first arguments.
    ///
    /// # Errors
    /// Its files cannot be protected from the container. Without the right to mount it starts
    /// unprotected; its files should then belong to another user.
    pub fn new(files: RunnerFiles, arguments: Vec<String>) -> Result<Self, SealError> {
        let seal = |fd: OwnedFd| match seal_file(fd.as_fd()) {
            // Only root could mount, and only root's containers could write to root's files.
            Err(_) if !rustix::process::geteuid().is_root() => Ok(fd),
            sealed => sealed,
        };
        Ok(Self {
            files: RunnerFiles {
                binary: seal(files.binary)?,
                loader: files.loader.map(seal).transpose()?,
                libraries: files.libraries.into_iter().map(seal).collect::<Result<_, _>>()?,
            },
            inputs: Vec::new(),
            arguments,
        })
    }

    /// Gives it a descriptor. The container can use it as its flags allow.
    #[must_use]
    pub fn inherit(mut self, fd: OwnedFd) -> Self {
        self.inputs.push(fd);
        self
    }

    /// For one container: the message to its worker, and the descriptors with it.
    pub(crate) fn for_worker(&self) -> io::Result<(RunnerJob, Vec<OwnedFd>)> {
        let RunnerFiles {
            binary,
            loader,
            libraries,
        } = &self.files;
        let job = RunnerJob {
            dynamic: loader.is_some(),
            libraries: libraries.len(),
            arguments: self.arguments.clone(),
        };
        let all = [binary]
            .into_iter()
            .chain(loader)
            .chain(libraries)
            .chain(&self.inputs);
        Ok((job, all.map(OwnedFd::try_clone).collect::<io::Result<_>>()?))
    }
}

/// What a worker is told about a runner. Descriptors: program, loader if any, libraries, inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunnerJob {
    dynamic: bool,
    libraries: usize,
    arguments: Vec<String>,
}

/// How to execute a runner whose descriptors have their final numbers.
#[derive(Debug, Clone)]
pub(crate) struct RunnerCommand {
    /// What is executed.
    pub(crate) path: String,
    /// Before the container's own.
    arguments: Vec<String>,
    inherited: Vec<RawFd>,
}

impl RunnerCommand {
    /// `None` if there are fewer descriptors than there must be.
    pub(crate) fn new(job: &RunnerJob, descriptors: &[OwnedFd], view: &RootView) -> Option<Self> {
        let numbers: Vec<RawFd> = descriptors
            .iter()
            .chain([&view.theirs])
            .map(AsRawFd::as_raw_fd)
            .collect();
        let path = |number: &RawFd| format!("/proc/self/fd/{number}");
        let (own, inputs) = numbers.split_at_checked(1 + usize::from(job.dynamic) + job.libraries)?;
        let binary = path(own.first()?);
        let (executed, mut arguments) = if job.dynamic {
            let libraries: Vec<String> = own[2..].iter().map(path).collect();
            let mut arguments = vec!["magikrun".to_owned()];
            if !libraries.is_empty() {
                arguments.extend(["--preload".to_owned(), libraries.join(" ")]);
            }
            arguments.push(binary);
            (path(&own[1]), arguments)
        } else {
            (binary, vec!["magikrun".to_owned()])
        };
        let list = |numbers: &[RawFd]| {
            let texts: Vec<String> = numbers.iter().map(RawFd::to_string).collect();
            texts.join(",")
        };
        // The kernel closes the loader: it is what it executes.
        let kept: Vec<RawFd> = own.iter().copied().filter(|n| path(n) != executed).collect();
        arguments.extend(job.arguments.iter().cloned());
        arguments.extend([list(inputs), list(&kept)]);
        Some(Self {
            path: executed,
            arguments,
            inherited: [kept.as_slice(), inputs].concat(),
        })
    }

    /// All arguments, the container's among them.
    pub(crate) fn arguments(&self, of_container: &[String]) -> Vec<String> {
        self.arguments.iter().chain(of_container).cloned().collect()
    }

    /// The environment, given the container's.
    pub(crate) fn environment(of_container: &[String]) -> Vec<String> {
        of_container
            .iter()
            .map(|variable| format!("{ENVIRONMENT_MARK}{variable}"))
            .collect()
    }

    /// Has the descriptors survive execve.
    #[allow(
        unsafe_code,
        reason = "they are known by number only, in a copy of the process that owns them"
    )]
    pub(crate) fn let_inherit(&self) -> io::Result<()> {
        for number in &self.inherited {
            // SAFETY: borrowed for one call; the worker keeps it open for the container's copy.
            let fd = unsafe { BorrowedFd::borrow_raw(*number) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    }
}

/// The container's root, on its way to the runner: in a socket, from which the runner takes it.
pub(crate) struct RootView {
    theirs: OwnedFd,
}

impl RootView {
    /// A view of the root of this process, which is the container's.
    pub(crate) fn of(root: &OwnedFd) -> io::Result<Self> {
        let view = clone_mount(root, Path::new(""))?;
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
            propagation: libc::MS_PRIVATE,
            ..Attributes::default()
        };
        set_attributes(&view, attributes)?;
        Self::holding(&view)
    }

    fn holding(view: &OwnedFd) -> io::Result<Self> {
        let (ours, theirs) = socket::pair()?;
        socket::send(&ours, b"/", &[view.as_fd()])?;
        Ok(Self { theirs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptors(count: usize) -> Vec<OwnedFd> {
        let open = |_| std::fs::File::open("/dev/null").unwrap().into();
        (0..count).map(open).collect()
    }

    fn job(dynamic: bool, libraries: usize) -> RunnerJob {
        RunnerJob {
            dynamic,
            libraries,
            arguments: vec!["run".into()],
        }
    }

    #[test]
    fn a_dynamic_program_is_started_by_its_loader_with_all_its_libraries() {
        let fds = descriptors(5);
        let number = |i: usize| fds[i].as_raw_fd();
        let view = RootView::holding(&descriptors(1)[0]).unwrap();
        let command = RunnerCommand::new(&job(true, 2), &fds, &view).unwrap();
        assert_eq!(command.path, format!("/proc/self/fd/{}", number(1)));
        let expected = [
            "magikrun".to_owned(),
            "--preload".to_owned(),
            format!("/proc/self/fd/{} /proc/self/fd/{}", number(2), number(3)),
            format!("/proc/self/fd/{}", number(0)),
            "run".to_owned(),
            format!("{},{}", number(4), view.theirs.as_raw_fd()),
            format!("{},{},{}", number(0), number(2), number(3)),
            "app.wasm".to_owned(),
        ];
        assert_eq!(command.arguments(&["app.wasm".to_owned()]), expected);
        let inherited = [
            number(0),
            number(2),
            number(3),
            number(4),
            view.theirs.as_raw_fd(),
        ];
        assert_eq!(command.inherited, inherited);
        assert!(RunnerCommand::new(&job(true, 5), &fds, &view).is_none());
    }

    #[test]
    fn a_static_program_is_started_itself() {
        let fds = descriptors(2);
        let view = RootView::holding(&descriptors(1)[0]).unwrap();
        let command = RunnerCommand::new(&job(false, 0), &fds, &view).unwrap();
        assert_eq!(command.path, format!("/proc/self/fd/{}", fds[0].as_raw_fd()));
        let inputs = format!("{},{}", fds[1].as_raw_fd(), view.theirs.as_raw_fd());
        let expected = ["magikrun", "run", &inputs, "", "a"].map(str::to_owned);
        assert_eq!(command.arguments(&["a".to_owned()]), expected);
    }

    #[test]
    fn the_containers_variables_mean_nothing_to_the_loader() {
        let environment = RunnerCommand::environment(&["LD_PRELOAD=/evil.so".to_owned()]);
        assert_eq!(environment, ["_LD_PRELOAD=/evil.so"]);
    }
}
