//! The default seccomp profile, and those that a pod brings.
//!
//! `seccomp.json` refuses what moby's and containerd's default profiles refuse: new namespaces
//! (`unshare`, `setns`, `clone` by its flags; `clone3`, whose flags no filter can see, does not
//! exist), mounts, keyrings, BPF, perf, io_uring, and sockets of the families `AF_VSOCK` and
//! `AF_ALG`, unless the container has the capability that the call is for. It began as the profile
//! of containers/common 0.50 (Copyright The containers authors, Apache-2.0), whose form it has, and
//! differs from moby's in this:
//!
//! - Calls that it does not know answer ENOSYS, so that programs fall back instead of failing.
//! - `socketcall(2)`, by which 32-bit programs open sockets of any family, is refused: no filter
//!   sees the family. Such programs must call `socket(2)`, as musl does and glibc does if it was
//!   built for Linux 4.3 or later.
//! - `vmsplice` is refused, `NETLINK_AUDIT` answers as on a kernel without it.
//!
//! Its rules depend on the machine and on the container's capabilities, as do those of the profiles
//! that docker and podman take; [`evaluate`](Profile::evaluate) decides which of them hold.

use std::{
    io,
    path::{Component, Path},
    sync::LazyLock,
};

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::{BundleError, SeccompProfile};
use crate::bounded;

/// The largest profile that is read, in bytes; docker's default has 14 KiB.
pub const MAX_SECCOMP_PROFILE_SIZE: u64 = 256 * 1024;

static DEFAULT: LazyLock<Result<Profile, String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("seccomp.json")).map_err(|e| e.to_string()));

/// A profile as docker, podman and the runtime-spec write it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    /// What `defaultErrnoRet` says already.
    #[serde(rename = "defaultErrno")]
    _default_errno: Option<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    architectures: Vec<Arch>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// Docker's older form.
    name: Option<String>,
    action: LinuxSeccompAction,
    args: Option<Vec<LinuxSeccompArg>>,
    errno_ret: Option<u32>,
    /// What `errnoRet` says already.
    #[serde(rename = "errno")]
    _errno: Option<String>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    caps: Vec<String>,
    /// `4.8`: the version of the kernel from which on the rule is meant.
    min_kernel: Option<String>,
}

/// A machine's names: the kernel's, Go's (as in the profile), and calls it never had.
#[derive(Debug, Clone, Copy)]
struct Machine {
    arch: Arch,
    go_arch: &'static str,
    /// Names in the profile that are no system calls of the machine or its 32-bit modes: saves the
    /// runtime useless lookups (libseccomp 2.5, `seccomp_syscall_resolve_name_arch`).
    unknown: &'static [&'static str],
}

const X86_64: Machine = Machine {
    arch: Arch::ScmpArchX86_64,
    go_arch: "amd64",
    unknown: &[
        "breakpoint",
        "cacheflush",
        "pciconfig_iobase",
        "pciconfig_read",
        "pciconfig_write",
        "recv",
        "send",
        "set_tls",
        "swapcontext",
        "syscall",
        "timerfd",
    ],
};

const AARCH64: Machine = Machine {
    arch: Arch::ScmpArchAarch64,
    go_arch: "arm64",
    unknown: &[
        "alarm",
        "epoll_ctl_old",
        "epoll_wait_old",
        "fadvise64_64",
        "get_thread_area",
        "ioperm",
        "iopl",
        "ipc",
        "oldfstat",
        "oldlstat",
        "oldolduname",
        "oldstat",
        "olduname",
        "query_module",
        "readdir",
        "select",
        "set_thread_area",
        "sgetmask",
        "signal",
        "socketcall",
        "ssetmask",
        "stime",
        "swapcontext",
        "syscall",
        "time",
        "timerfd",
        "umount",
        "utime",
        "vm86",
        "vm86old",
        "waitpid",
    ],
};

/// This machine.
fn machine() -> Machine {
    if cfg!(target_arch = "aarch64") {
        AARCH64
    } else {
        X86_64
    }
}

/// The default profile on this machine for a container with the bounding set `capabilities`.
pub(super) fn default_profile(capabilities: &Capabilities) -> Result<LinuxSeccomp, BundleError> {
    default_for(machine(), capabilities)
}

fn default_for(machine: Machine, capabilities: &Capabilities) -> Result<LinuxSeccomp, BundleError> {
    let profile = DEFAULT
        .as_ref()
        .map_err(|e| BundleError::field("seccomp.json", e.clone()))?;
    let evaluated = profile.evaluate(machine, capabilities);
    evaluated.map_err(|e| BundleError::field("seccomp.json", e.to_string()))
}

/// The profile in `text`, which errors call `name`, on this machine for a container with these
/// capabilities.
pub(super) fn document(
    name: &str,
    text: &[u8],
    capabilities: &Capabilities,
) -> Result<LinuxSeccomp, BundleError> {
    let refused = |reason: String| BundleError::field(format!("seccomp profile {name}"), reason);
    let profile: Profile = serde_json::from_slice(text).map_err(|e| refused(e.to_string()))?;
    let mut actions = profile.syscalls.iter().map(|rule| rule.action);
    if profile.default_action == LinuxSeccompAction::ScmpActNotify
        || actions.any(|action| action == LinuxSeccompAction::ScmpActNotify)
    {
        return Err(refused(
            "SCMP_ACT_NOTIFY: nobody listens for its notifications".into(),
        ));
    }
    profile
        .evaluate(machine(), capabilities)
        .map_err(|e| refused(e.to_string()))
}

/// Reads the profile `name`, a relative path below `dir` (Kubernetes' `localhostProfile`).
///
/// No link and no `..` leads out of `dir`; [`MAX_SECCOMP_PROFILE_SIZE`] is the limit.
///
/// # Errors
/// [`BundleError::Field`]: the name is no relative path; [`BundleError::Io`]: it cannot be read.
pub fn load_seccomp_profile(dir: &Path, name: &str) -> Result<SeccompProfile, BundleError> {
    let relative = Path::new(name);
    let normal = |part| matches!(part, Component::Normal(_));
    if name.is_empty() || name.contains('\0') || !relative.components().all(normal) {
        return Err(BundleError::field(
            "localhostProfile",
            format!("{name:?} is not a relative path without '..'"),
        ));
    }
    let failed = |source: io::Error| BundleError::Io {
        path: dir.join(relative),
        source,
    };
    let file = open_beneath(dir, relative).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("is not a file")));
    }
    let text = bounded::read(file, MAX_SECCOMP_PROFILE_SIZE).map_err(failed)?;
    Ok(SeccompProfile::Document {
        name: name.to_owned(),
        text,
    })
}

#[cfg(target_os = "linux")]
fn open_beneath(dir: &Path, name: &Path) -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
    let dir = open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&dir, name, flags, Mode::empty(), resolve)?.into())
}

/// Elsewhere there is no such call; the name has no `..` in it.
#[cfg(not(target_os = "linux"))]
fn open_beneath(dir: &Path, name: &Path) -> io::Result<std::fs::File> {
    std::fs::File::open(dir.join(name))
}

impl Profile {
    /// What of it holds on a machine, for a container with these capabilities.
    fn evaluate(
        &self,
        machine: Machine,
        capabilities: &Capabilities,
    ) -> Result<LinuxSeccomp, oci_spec::OciSpecError> {
        let mut architectures = self.architectures.clone();
        // As in docker, the map counts before the list if it has the machine.
        if let Some(map) = self.arch_map.iter().find(|map| map.architecture == machine.arch) {
            architectures = vec![machine.arch];
            architectures.extend(map.sub_architectures.iter().flatten());
        }
        if architectures.is_empty() {
            architectures.push(machine.arch);
        }
        let mut builder = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(architectures)
            .syscalls(rules(self, machine, capabilities)?);
        if let Some(errno) = self.default_errno_ret {
            builder = builder.default_errno_ret(errno);
        }
        if let Some(flags) = &self.flags {
            builder = builder.flags(flags.clone());
        }
        builder.build()
    }
}

impl Condition {
    /// Whether the running kernel is as new as the rule wants. What cannot be read is no condition:
    /// a rule is not lost by it.
    fn kernel_is_new_enough(&self) -> bool {
        let version = |text: &str| {
            let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        };
        let Some(wanted) = self.min_kernel.as_deref().and_then(version) else {
            return true;
        };
        let release = rustix::system::uname();
        let running = release.release().to_str().ok().and_then(version);
        running.is_none_or(|running| running >= wanted)
    }
}

/// The rules that hold, those without conditions on arguments merged into one per action.
fn rules(
    profile: &Profile,
    machine: Machine,
    capabilities: &Capabilities,
) -> Result<Vec<LinuxSyscall>, oci_spec::OciSpecError> {
    let has = |name: &String| {
        capabilities
            .iter()
            .any(|c| name.strip_prefix("CAP_") == Some(&c.to_string()))
    };
    let mut merged: Vec<Merged> = Vec::new();
    for rule in &profile.syscalls {
        let is_machine = |arches: &[String]| arches.iter().any(|arch| arch == machine.go_arch);
        let none = Condition::default();
        let includes = rule.includes.as_ref().unwrap_or(&none);
        let excludes = rule.excludes.as_ref().unwrap_or(&none);
        let holds = (includes.arches.is_empty() || is_machine(&includes.arches))
            && includes.caps.iter().all(has)
            && includes.kernel_is_new_enough()
            && !is_machine(&excludes.arches)
            && !excludes.caps.iter().any(has)
            && (excludes.min_kernel.is_none() || !excludes.kernel_is_new_enough());
        if !holds {
            continue;
        }
        let args = rule.args.clone().unwrap_or_default();
        let names = rule
            .names
            .iter()
            .chain(&rule.name)
            .filter(|name| !machine.unknown.contains(&name.as_str()))
            .cloned();
        // Rules with arguments are alternatives: only equal ones may be merged.
        let same = merged.iter_mut().find(|other| {
            (other.action, other.errno, &other.args) == (rule.action, rule.errno_ret, &args)
                && (args.is_empty() || (rule.name.is_none() && other.names == rule.names))
        });
        match same {
            Some(other) => other.names.extend(names),
            None => merged.push(Merged {
                action: rule.action,
                errno: rule.errno_ret,
                args,
                names: names.collect(),
            }),
        }
    }
    let merged = merged.into_iter().filter(|rule| !rule.names.is_empty());
    merged.map(Merged::build).collect()
}

/// Rules that differ in names only.
struct Merged {
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
    names: Vec<String>,
}

impl Merged {
    fn build(mut self) -> Result<LinuxSyscall, oci_spec::OciSpecError> {
        self.names.sort();
        self.names.dedup();
        let mut builder = LinuxSyscallBuilder::default()
            .action(self.action)
            .names(self.names);
        if let Some(errno) = self.errno {
            builder = builder.errno_ret(errno);
        }
        if !self.args.is_empty() {
            builder = builder.args(self.args);
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests;
