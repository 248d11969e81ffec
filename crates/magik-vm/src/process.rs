//! Starting a machine's processes: with the descriptors they need and no others, tied to this process's life.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    process::Stdio,
};

use rustix::{
    io::FdFlags,
    process::{Gid, Signal, Uid, set_parent_process_death_signal},
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use seccompiler::BpfProgram;
use tokio::process::{Child, Command};

use crate::VmUser;

/// A process to be started.
#[derive(Debug)]
pub(crate) struct Process {
    command: Command,
    descriptors: Vec<OwnedFd>,
    user: Option<u32>,
    filters: Vec<BpfProgram>,
}

impl Process {
    /// A program without arguments, without input, whose output goes to `output`; it gets nothing of our environment.
    pub(crate) fn new(program: &std::path::Path, output: &OwnedFd) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .kill_on_drop(true);
        Ok(Self {
            command,
            descriptors: Vec::new(),
            user: None,
            filters: Vec::new(),
        })
    }

    pub(crate) fn arguments(&mut self, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) {
        self.command.args(arguments);
    }

    /// Gives the process a descriptor, and says which number it has there.
    pub(crate) fn give(&mut self, descriptor: OwnedFd) -> RawFd {
        let number = descriptor.as_raw_fd();
        self.descriptors.push(descriptor);
        number
    }

    /// Runs it as another user, who is in no group but that of the same number.
    pub(crate) fn user(&mut self, user: Option<&VmUser>) -> io::Result<()> {
        self.user = user.map(VmUser::number);
        self.hold(user)
    }

    /// Has the process hold a user's lease for as long as it lives.
    pub(crate) fn hold(&mut self, user: Option<&VmUser>) -> io::Result<()> {
        self.descriptors.extend(user.map(VmUser::another).transpose()?);
        Ok(())
    }

    /// Puts it under these filters, beside those that it takes by itself.
    pub(crate) fn filter(&mut self, filters: impl IntoIterator<Item = BpfProgram>) {
        self.filters.extend(filters);
    }

    /// Starts it.
    #[allow(unsafe_code, reason = "there is no safe pre_exec")]
    pub(crate) fn spawn(mut self) -> io::Result<Child> {
        let Self {
            descriptors,
            user,
            filters,
            ..
        } = self;
        // SAFETY: between fork and exec only system calls are made, on numbers and on descriptors that the closure owns.
        unsafe {
            self.command.pre_exec(move || {
                for descriptor in &descriptors {
                    rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
                }
                if let Some(user) = user {
                    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
                    set_thread_groups(&[])?;
                    set_thread_res_gid(group, group, group)?;
                    set_thread_res_uid(user, user, user)?;
                }
                set_no_new_privs(true)?;
                // After the change of user, which clears it (prctl(2)).
                set_parent_process_death_signal(Some(Signal::KILL))?;
                for filter in &filters {
                    seccompiler::apply_filter(filter)
                        .map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
                }
                Ok(())
            });
        }
        self.command.spawn()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    fn pipe() -> (File, OwnedFd) {
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (reading.into(), writing)
    }

    #[tokio::test]
    async fn a_process_has_what_it_was_given_and_nothing_else() {
        let (mut output, writing) = pipe();
        let (mut given_reading, given) = pipe();
        let (_other_reading, other) = pipe();
        let mut process = Process::new("/bin/sh".as_ref(), &writing).unwrap();
        let number = process.give(given);
        let other = other.as_raw_fd();
        process.arguments([
            "-c".to_owned(),
            format!("echo hi >/proc/self/fd/{number}; env; test -e /proc/self/fd/{other} && echo inherited; grep NoNewPrivs /proc/self/status"),
        ]);
        let mut child = process.spawn().unwrap();
        drop(writing);
        assert!(child.wait().await.unwrap().success());
        let (mut said, mut through) = (String::new(), String::new());
        output.read_to_string(&mut said).unwrap();
        given_reading.read_to_string(&mut through).unwrap();
        assert_eq!(through, "hi\n");
        assert!(!said.contains("inherited") && !said.contains("CARGO"), "{said}");
        assert!(said.contains("NoNewPrivs:\t1"), "{said}");
    }

    #[tokio::test]
    async fn a_process_of_another_user_is_in_no_group_of_ours() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (mut output, writing) = pipe();
        let mut process = Process::new("/usr/bin/id".as_ref(), &writing).unwrap();
        process.arguments(["-G"]);
        let users = tempfile::tempdir().unwrap();
        let user = VmUser::lease(&users.path().join("users")).unwrap();
        process.user(Some(&user)).unwrap();
        let mut child = process.spawn().unwrap();
        drop(writing);
        assert!(child.wait().await.unwrap().success());
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        assert_eq!(said, format!("{}\n", user.number()));
    }
}
