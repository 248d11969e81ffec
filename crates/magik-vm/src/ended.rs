//! How a machine ended.

use std::{fmt, io, process::ExitStatus};

/// One of a machine's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmProcess {
    /// QEMU.
    Qemu,
    /// The process that serves QEMU's guest one share.
    Virtiofsd,
    /// The process that carries the vsock connections of QEMU's guest.
    VsockDevice,
    /// libkrun's machine, which is one process.
    Vmm,
}

impl VmProcess {
    /// The name of its program, for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::Virtiofsd => "virtiofsd",
            Self::VsockDevice => "vhost-device-vsock",
            Self::Vmm => crate::VMM_PROGRAM,
        }
    }
}

impl fmt::Display for VmProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of one of a machine's processes, which is the machine's.
#[derive(Debug)]
pub struct Ended {
    /// Which process.
    pub process: VmProcess,
    /// How; or why that is not known.
    pub status: io::Result<ExitStatus>,
    /// The last lines that it wrote; those of a monitor are the guest's console. May be empty.
    pub last_words: String,
}

impl Ended {
    /// Whether the monitor ended without a fault, as it does when the guest switches itself off.
    #[must_use]
    pub fn is_power_off(&self) -> bool {
        let monitor = matches!(self.process, VmProcess::Qemu | VmProcess::Vmm);
        monitor && self.status.as_ref().is_ok_and(ExitStatus::success)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.process;
        match &self.status {
            Ok(status) => write!(f, "{process} ended ({status})")?,
            Err(error) => write!(f, "{process} ended ({error})")?,
        }
        if self.last_words.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.last_words)
    }
}

impl std::error::Error for Ended {}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn an_end_is_one_line_and_only_a_monitors_good_end_is_a_power_off() {
        let ended = |process, wait_status, last_words: &str| Ended {
            process,
            status: Ok(ExitStatus::from_raw(wait_status)),
            last_words: last_words.to_owned(),
        };
        let done = ended(VmProcess::Qemu, 0, "");
        assert_eq!(done.to_string(), "QEMU ended (exit status: 0)");
        assert!(done.is_power_off());
        let killed = ended(VmProcess::Vmm, 9, "panic");
        assert_eq!(
            killed.to_string(),
            "magikrun-vmm ended (signal: 9 (SIGKILL)): panic"
        );
        assert!(!killed.is_power_off());
        assert!(!ended(VmProcess::Virtiofsd, 0, "").is_power_off());
    }
}
