//! The default seccomp profile.
//!
//! `seccomp.json` is the profile of containers/common (podman, CRI-O, buildah) as Debian 12's package
//! `golang-github-containers-common` 0.50 installs it, unchanged; Copyright The containers authors, Apache-2.0. It is moby's
//! profile with ENOSYS for unknown calls, so that programs fall back instead of failing. Its rules depend on the machine
//! and on the container's capabilities; [`default_profile`] evaluates them.

use std::sync::LazyLock;

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::BundleError;

static PROFILE: LazyLock<Result<Profile, String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("seccomp.json")).map_err(|e| e.to_string()));

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    arch_map: Vec<ArchMap>,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Vec<Arch>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: LinuxSeccompAction,
    args: Option<Vec<LinuxSeccompArg>>,
    errno_ret: Option<u32>,
    includes: Condition,
    excludes: Condition,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(default)]
    arches: Vec<String>,
    #[serde(default)]
    caps: Vec<String>,
}

/// A machine's names: the kernel's and Go's, which is the profile's, and what no kernel of it ever had.
#[derive(Debug, Clone, Copy)]
struct Machine {
    arch: Arch,
    go_arch: &'static str,
    /// Names in the profile that are not system calls of the machine or its 32-bit modes; the runtime would look up each
    /// of them in vain (libseccomp 2.5, `seccomp_syscall_resolve_name_arch`).
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

/// The default profile on this machine for a container with the bounding set `capabilities`.
pub(super) fn default_profile(capabilities: &Capabilities) -> Result<LinuxSeccomp, BundleError> {
    let machine = if cfg!(target_arch = "aarch64") {
        AARCH64
    } else {
        X86_64
    };
    profile_for(machine, capabilities)
}

fn profile_for(machine: Machine, capabilities: &Capabilities) -> Result<LinuxSeccomp, BundleError> {
    let profile = PROFILE
        .as_ref()
        .map_err(|e| BundleError::field("seccomp.json", e.clone()))?;
    let build = || {
        let sub = profile
            .arch_map
            .iter()
            .find(|map| map.architecture == machine.arch);
        let mut builder = LinuxSeccompBuilder::default()
            .default_action(profile.default_action)
            .architectures(
                [
                    vec![machine.arch],
                    sub.map(|map| map.sub_architectures.clone()).unwrap_or_default(),
                ]
                .concat(),
            )
            .syscalls(rules(profile, machine, capabilities)?);
        if let Some(errno) = profile.default_errno_ret {
            builder = builder.default_errno_ret(errno);
        }
        builder.build()
    };
    build().map_err(|e| BundleError::field("seccomp.json", e.to_string()))
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
        let holds = (rule.includes.arches.is_empty() || is_machine(&rule.includes.arches))
            && rule.includes.caps.iter().all(has)
            && !is_machine(&rule.excludes.arches)
            && !rule.excludes.caps.iter().any(has);
        if !holds {
            continue;
        }
        let args = rule.args.clone().unwrap_or_default();
        let names = rule
            .names
            .iter()
            .filter(|name| !machine.unknown.contains(&name.as_str()))
            .cloned();
        // Rules with arguments are alternatives: two of them may be merged only if they are the same.
        let same = merged.iter_mut().find(|other| {
            (other.action, other.errno, &other.args) == (rule.action, rule.errno_ret, &args)
                && (args.is_empty() || other.names == rule.names)
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
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;
    use crate::bundle::DEFAULT_CAPABILITIES;

    fn action_of(profile: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, Option<u32>)> {
        let rules = profile.syscalls().as_ref().unwrap();
        let naming = rules.iter().filter(|rule| rule.names().iter().any(|n| n == name));
        naming.map(|rule| (rule.action(), rule.errno_ret())).collect()
    }

    const ALLOW: (LinuxSeccompAction, Option<u32>) = (LinuxSeccompAction::ScmpActAllow, None);
    const EPERM: (LinuxSeccompAction, Option<u32>) = (LinuxSeccompAction::ScmpActErrno, Some(1));

    #[test]
    fn unknown_calls_answer_enosys_and_privileged_ones_eperm() {
        let profile = profile_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
        assert_eq!(
            (profile.default_action(), profile.default_errno_ret()),
            (LinuxSeccompAction::ScmpActErrno, Some(38))
        );
        for (name, expected) in [
            ("read", ALLOW),
            ("bpf", EPERM),
            ("init_module", EPERM),
            ("kexec_file_load", EPERM),
            ("chroot", ALLOW),
        ] {
            assert_eq!(action_of(&profile, name), [expected], "{name}");
        }
        assert!(action_of(&profile, "no_such_call").is_empty());
    }

    #[test]
    fn capabilities_open_the_calls_they_are_for() {
        let profile = profile_for(X86_64, &[Capability::SysAdmin, Capability::SysModule].into()).unwrap();
        assert_eq!(action_of(&profile, "bpf"), [ALLOW]);
        assert_eq!(action_of(&profile, "init_module"), [ALLOW]);
        assert_eq!(action_of(&profile, "chroot"), [EPERM]);
    }

    #[test]
    fn machine_specific_calls_are_there_for_their_machine_only() {
        let caps = DEFAULT_CAPABILITIES.into();
        let (intel, arm) = (
            profile_for(X86_64, &caps).unwrap(),
            profile_for(AARCH64, &caps).unwrap(),
        );
        assert_eq!(action_of(&intel, "arch_prctl"), [ALLOW]);
        assert!(action_of(&arm, "arch_prctl").is_empty());
        assert_eq!(action_of(&arm, "set_tls"), [ALLOW]);
        assert!(action_of(&intel, "set_tls").is_empty());
        assert_eq!(
            intel.architectures().as_ref().unwrap(),
            &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
        );
        assert_eq!(
            arm.architectures().as_ref().unwrap(),
            &[Arch::ScmpArchAarch64, Arch::ScmpArchArm]
        );
    }

    #[test]
    fn rules_without_arguments_are_one_per_action() {
        let profile = profile_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
        let plain = profile
            .syscalls()
            .as_ref()
            .unwrap()
            .iter()
            .filter(|rule| rule.args().is_none());
        assert_eq!(plain.count(), 2, "allow, and EPERM");
        // personality 0, 8, 0x20000, 0x20008, -1; socket: netlink audit refused, two alternatives allowed.
        assert_eq!(action_of(&profile, "personality").len(), 5);
        assert_eq!(action_of(&profile, "socket").len(), 3);
        let size = serde_json::to_vec(&profile).unwrap().len();
        assert!(size < 9000, "{size} bytes of config.json");
    }
}
