//! What a process has that is neither its identity nor its files: limits, priorities, labels.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimit, Process,
    Scheduler,
};
use rustix::{process::Pid, thread::CpuSet};

use crate::failure::Failure;

/// linux/personality.h: `PER_LINUX` and `PER_LINUX32`.
const PER_LINUX: libc::c_ulong = 0;
const PER_LINUX32: libc::c_ulong = 8;
/// The file for the label of the next execve.
const EXEC_LABEL: &str = "/proc/thread-self/attr/exec";

/// Applies them to a process, this one if none is named, from the host's side of its namespaces.
pub(crate) fn apply(process: &Process, to: Option<Pid>) -> Result<(), Failure> {
    let failed = |field: &'static str| move |e: io::Error| Failure::Other(format!("process.{field}: {e}"));
    let pid = to.map_or(0, |pid| pid.as_raw_nonzero().get());
    if let Some(adjust) = process.oom_score_adj() {
        let name = to.map_or_else(|| "self".to_owned(), |_| pid.to_string());
        fs::write(format!("/proc/{name}/oom_score_adj"), adjust.to_string())
            .map_err(failed("oomScoreAdj"))?;
    }
    if let Some(priority) = process.io_priority() {
        set_io_priority(pid, priority.class(), priority.priority()).map_err(failed("ioPriority"))?;
    }
    if let Some(scheduler) = process.scheduler() {
        set_scheduler(pid, scheduler).map_err(failed("scheduler"))?;
    }
    for limit in process.rlimits().iter().flatten() {
        set_limit(pid, limit).map_err(failed("rlimits"))?;
    }
    Ok(())
}

/// The security labels that this process gets when it executes its program.
#[derive(Debug, Default)]
pub(crate) struct Labels(Vec<(&'static str, fs::File, String)>);

impl Labels {
    /// Opens the files for them, while this is the host's user in the host's namespaces.
    pub(crate) fn open(process: &Process) -> Result<Self, Failure> {
        let given = |label: &Option<String>| label.clone().filter(|l| !l.is_empty());
        let mut labels = Vec::new();
        let mut add = |field: &'static str, file: &str, text: String| {
            let opened = fs::OpenOptions::new().write(true).open(file);
            let opened = opened.map_err(|e| Failure::Other(format!("process.{field}: {e}")))?;
            labels.push((field, opened, text));
            Ok::<_, Failure>(())
        };
        if let Some(profile) = given(process.apparmor_profile()) {
            // AppArmor's own file where the kernel has one (5.8), else the common one.
            let own = "/proc/thread-self/attr/apparmor/exec";
            let file = if Path::new(own).exists() { own } else { EXEC_LABEL };
            add("apparmorProfile", file, format!("exec {profile}"))?;
        }
        if let Some(label) = given(process.selinux_label()).filter(|_| selinux_is_enabled()) {
            add("selinuxLabel", EXEC_LABEL, label)?;
        }
        Ok(Self(labels))
    }

    pub(crate) fn set(self) -> Result<(), Failure> {
        for (field, mut file, text) in self.0 {
            file.write_all(text.as_bytes())
                .map_err(|e| Failure::Other(format!("process.{field}: {e}")))?;
        }
        Ok(())
    }
}

/// Restricts this process to a list of processors, as `0-3,7`; `None` changes nothing.
pub(crate) fn set_affinity(list: Option<&str>) -> io::Result<()> {
    let Some(list) = list else { return Ok(()) };
    let set = parse_cpus(list).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{list:?} is no list of CPUs"),
        )
    })?;
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn parse_cpus(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if from > to || to >= CpuSet::MAX_CPU {
            return None;
        }
        (from..=to).for_each(|cpu| set.set(cpu));
    }
    Some(set)
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[allow(
    unsafe_code,
    reason = "rustix names limits, the runtime-spec's types are their numbers"
)]
fn set_limit(pid: libc::pid_t, limit: &PosixRlimit) -> io::Result<()> {
    let values = libc::rlimit {
        rlim_cur: limit.soft(),
        rlim_max: limit.hard(),
    };
    // SAFETY: the structure is read for the call; an unknown limit is an error.
    checked(unsafe { libc::prlimit(pid, limit.typ() as _, &raw const values, std::ptr::null_mut()) }.into())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", limit.typ())))
}

/// ioprio_set(2).
#[allow(unsafe_code, reason = "rustix has no ioprio_set")]
fn set_io_priority(pid: libc::pid_t, class: IOPriorityClass, priority: i64) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let class: i64 = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    // SAFETY: passes numbers only.
    checked(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, class << 13 | priority) })
}

/// The kernel's `struct sched_attr` up to version 0 (sched_setattr(2)).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

#[allow(unsafe_code, reason = "rustix has no sched_setattr")]
fn set_scheduler(pid: libc::pid_t, scheduler: &Scheduler) -> io::Result<()> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let attributes = SchedAttr {
        size: 48,
        policy,
        flags: scheduler
            .flags()
            .iter()
            .flatten()
            .map(flag)
            .fold(0, |all, f| all | f),
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(scheduler.priority().unwrap_or(0)).map_err(io::Error::other)?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    };
    // SAFETY: the structure is as long as it says, and only read.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) })
}

/// personality(2); `None` changes nothing.
#[allow(unsafe_code, reason = "rustix has no personality")]
pub(crate) fn set_personality(domain: Option<LinuxPersonalityDomain>) -> io::Result<()> {
    let Some(domain) = domain else { return Ok(()) };
    let number = match domain {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    // SAFETY: passes a number only.
    checked(unsafe { libc::personality(number) }.into())
}

/// Whether the host has SELinux.
pub(crate) fn selinux_is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_of_processors() {
        let set = parse_cpus("0-2, 5").unwrap();
        assert!([0, 1, 2, 5].iter().all(|cpu| set.is_set(*cpu)) && set.count() == 4);
        for wrong in ["x", "3-1", "1-", "99999", "-1"] {
            assert!(parse_cpus(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_scheduler_and_its_structure_are_the_kernels() {
        assert_eq!(size_of::<SchedAttr>(), 48);
    }
}
