//! What the facts mean, and what to do: no look at the host, so that each case is tested.

use std::{io::ErrorKind, time::Duration};

use magik_oci::Capability;
use magik_pri::RuntimeClass;
use rustix::io::Errno;
use serde::Serialize;

use super::{
    distribution::Package,
    facts::{Facts, Place},
};
use crate::output;

/// Less than this on the data root's file system is too little for most images, in bytes.
const FEW_DATA: u64 = 1 << 30;
/// A pod's state takes some hundred KiB, in bytes.
const FEW_STATE: u64 = 16 << 20;
/// A program may well have been built on a host whose clock is a little ahead.
const CLOCK_MARGIN: Duration = Duration::from_secs(86_400);
/// The first kernel whose overlays map owners (docs/security.md).
const MAPS_OWNERS: (u32, u32) = (6, 3);

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// Pods run, but not as well as they could, or not all.
    Warn,
    /// Something that pods need.
    Missing,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
        }
    }
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// How it is, or what is wrong.
    pub(super) detail: String,
    /// What to do about it.
    pub(super) remedy: Option<String>,
}

fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        name,
        state: State::Ok,
        detail: detail.into(),
        remedy: None,
    }
}

fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        name,
        state: State::Warn,
        detail: detail.into(),
        remedy: Some(remedy.into()),
    }
}

fn missing(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        state: State::Missing,
        ..warn(name, detail, remedy)
    }
}

impl Facts {
    /// The classes of pods that run here.
    pub(super) fn runnable(&self) -> Vec<&'static str> {
        let places = [&self.data, &self.state];
        if places.iter().any(|place| place.unusable()) {
            return Vec::new();
        }
        let available = self.classes.iter().filter(|(_, capability)| capability.available);
        available.map(|(class, _)| class.as_str()).collect()
    }

    /// Everything there is to say.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut all = vec![
            self.native(),
            self.microvm(),
            self.wasm(),
            self.cgroups(),
            self.overlayfs(),
            self.user_namespaces(),
            self.pod_users(),
            self.seccomp(),
            self.landlock(),
            self.kvm(),
        ];
        all.extend(self.place("data root", &self.data, FEW_DATA, "--data-dir"));
        all.extend(self.place("state root", &self.state, FEW_STATE, "--state-dir"));
        all.extend([self.loopback(), self.certificates(), self.clock()]);
        all
    }

    /// A command that only root may do.
    fn as_root(&self, command: impl AsRef<str>) -> String {
        let command = command.as_ref();
        if self.root {
            command.to_owned()
        } else {
            format!("sudo {command}")
        }
    }

    /// A kernel's setting, now and after the next boot.
    fn set(&self, name: &str, value: &str) -> String {
        let write = format!("echo {name}={value} > /etc/sysctl.d/90-magikrun.conf && sysctl --system");
        if self.root {
            write
        } else {
            format!("sudo sh -c '{write}'")
        }
    }

    fn not_built(&self, name: &'static str) -> Finding {
        let why = self.data.unknown.as_ref().or(self.state.unknown.as_ref());
        match why {
            Some(why) => missing(name, why.clone(), "give the directory"),
            None => warn(
                name,
                "this build has no such backend",
                "build magikrun with all features",
            ),
        }
    }

    fn native(&self) -> Finding {
        let name = "native pods";
        match self.class(RuntimeClass::Native) {
            None => self.not_built(name),
            Some(Capability {
                available: true,
                detail,
            }) => ok(name, detail),
            Some(Capability { detail, .. }) if !self.root => warn(
                name,
                detail,
                "run magikrun as root, with sudo; WebAssembly pods need no root",
            ),
            Some(Capability { detail, .. }) => missing(
                name,
                detail,
                "in a container, run it with CAP_SYS_ADMIN (podman run --privileged)",
            ),
        }
    }

    fn microvm(&self) -> Finding {
        let name = "microVM pods";
        let Some(capability) = self.class(RuntimeClass::MicroVm) else {
            return self.not_built(name);
        };
        if !self.vm_files.is_empty() {
            let remedy = "magikrun's package has them; in a checkout: cargo xtask vm";
            return warn(name, self.vm_files.join("; "), remedy);
        }
        if capability.available && self.root {
            return ok(name, &capability.detail);
        }
        if !self.root {
            return warn(name, "need root", "run magikrun as root, with sudo");
        }
        let remedy = if self.qemu {
            "magikrun system info has every driver's answer".to_owned()
        } else {
            self.as_root(self.family.install(Package::Qemu))
        };
        warn(name, &capability.detail, remedy)
    }

    fn wasm(&self) -> Finding {
        let name = "WebAssembly pods";
        match self.class(RuntimeClass::Wasm) {
            None => self.not_built(name),
            Some(Capability {
                available: true,
                detail,
            }) => ok(name, detail),
            Some(Capability { detail, .. }) => warn(name, detail, "install magikrun-wasm beside magikrun"),
        }
    }

    fn cgroups(&self) -> Finding {
        let name = "cgroups";
        let Capability { available, detail } = &self.platform.cgroups;
        if !available {
            let remedy = self.as_root("mount -t cgroup2 none /sys/fs/cgroup");
            return missing(name, detail, remedy);
        }
        let is = |controller: &str| detail.split([' ', ':']).any(|word| word == controller);
        if let Some(absent) = ["memory", "pids", "cpu"].into_iter().find(|c| !is(c)) {
            let remedy = format!("add cgroup_enable={absent} to the kernel's command line and reboot");
            return warn(
                name,
                format!("{detail}: no controller {absent}, so no such limits"),
                remedy,
            );
        }
        if self.root && !self.cgroup_writable {
            let remedy = self.as_root("mount -o remount,rw /sys/fs/cgroup");
            return missing(name, "/sys/fs/cgroup cannot be written", remedy);
        }
        ok(name, detail)
    }

    fn overlayfs(&self) -> Finding {
        let Capability { available, detail } = &self.platform.overlayfs;
        match (available, self.root) {
            (true, _) => ok("overlayfs", detail),
            (false, true) => warn(
                "overlayfs",
                format!("{detail}: root file systems are copies, which take longer and more room"),
                self.as_root("modprobe overlay"),
            ),
            (false, false) => warn(
                "overlayfs",
                detail,
                "only root's pods use it: sudo magikrun system check",
            ),
        }
    }

    fn user_namespaces(&self) -> Finding {
        let name = "user namespaces";
        let Capability { available, detail } = &self.platform.user_namespaces;
        if *available {
            return ok(name, detail);
        }
        let remedy = if self.sysctls.max_user_namespaces == Some(0) {
            self.set("user.max_user_namespaces", "15000")
        } else if self.sysctls.unprivileged_userns_clone == Some(0) {
            self.set("kernel.unprivileged_userns_clone", "1")
        } else if self
            .sysctls
            .apparmor_restrict
            .is_some_and(|restricted| restricted != 0)
        {
            self.set("kernel.apparmor_restrict_unprivileged_userns", "0")
        } else {
            "the kernel, a container around this, or a security module forbids them".to_owned()
        };
        let effect = if self.root {
            "pods have no users of their own"
        } else {
            "WebAssembly pods have seccomp and Landlock only"
        };
        warn(name, format!("{detail}: {effect}"), remedy)
    }

    /// Whether native pods get users of their own.
    fn pod_users(&self) -> Finding {
        let name = "users of pods";
        let [users, groups] = &self.subordinate;
        if users != groups {
            return warn(
                name,
                "/etc/subuid and /etc/subgid give user magikrun different ranges: pods share the host's users",
                "write the same line, magikrun:2013265920:67108864, to both",
            );
        }
        if self.kernel < MAPS_OWNERS {
            let (major, minor) = self.kernel;
            return warn(
                name,
                format!("Linux {major}.{minor} cannot map the owners of files: pods share the host's users"),
                "Linux 6.3 or newer can",
            );
        }
        if users.is_empty() {
            ok(name, "from 2013265920 on")
        } else {
            ok(name, users)
        }
    }

    fn seccomp(&self) -> Finding {
        let Capability { available, detail } = &self.platform.seccomp;
        if *available {
            return ok("seccomp", detail);
        }
        let remedy =
            "needs a kernel with CONFIG_SECCOMP_FILTER; seccompProfile Unconfined runs a pod without";
        warn("seccomp", detail, remedy)
    }

    fn landlock(&self) -> Finding {
        let Capability { available, detail } = &self.platform.landlock;
        if *available {
            return ok("Landlock", detail);
        }
        let remedy =
            "add landlock to lsm= of the kernel's command line; WebAssembly pods have one wall less without";
        warn("Landlock", detail, remedy)
    }

    fn kvm(&self) -> Finding {
        let name = "KVM";
        let slow = "machines are emulated, 10 to 20 times slower";
        match self.kvm {
            Ok(()) => ok(name, "/dev/kvm opens"),
            Err(Errno::ACCESS | Errno::PERM) if self.kvm_group => warn(
                name,
                format!("/dev/kvm: permission denied: {slow}"),
                self.as_root("usermod -aG kvm $USER && newgrp kvm"),
            ),
            Err(Errno::NOENT) => warn(
                name,
                format!("there is no /dev/kvm: {slow}"),
                format!(
                    "switch virtualization on in the firmware, or nested virtualization in the host; then {}",
                    self.as_root("modprobe -a kvm kvm_intel kvm_amd")
                ),
            ),
            Err(e) => warn(
                name,
                format!("/dev/kvm: {}: {slow}", std::io::Error::from(e)),
                "have the device passed to this container or user",
            ),
        }
    }

    fn place(&self, name: &'static str, place: &Place, few: u64, option: &str) -> Vec<Finding> {
        if let Some(why) = &place.unknown {
            return vec![missing(name, why, format!("give {option} DIR"))];
        }
        let (path, existing) = (place.path.display(), place.existing.display());
        if place.read_only {
            let remedy = format!(
                "give {option} DIR, or {}",
                self.as_root(format!("mount -o remount,rw {existing}"))
            );
            return vec![missing(
                name,
                format!("{path}: its file system is read-only"),
                remedy,
            )];
        }
        if let Some(why) = place.refused {
            let remedy = match why {
                ErrorKind::PermissionDenied if !self.root => {
                    format!("give {option} DIR, or sudo chown $USER {existing}")
                }
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    format!("make room there, or give {option} DIR")
                }
                _ => format!("give {option} DIR"),
            };
            return vec![missing(
                name,
                format!("{path}: nothing can be made in {existing}: {why}"),
                remedy,
            )];
        }
        let mut findings = Vec::new();
        if place.no_inodes || place.free < few {
            let detail = if place.no_inodes {
                format!("{path}: no inodes are left")
            } else {
                format!("{path}: {} are left", output::size(place.free))
            };
            let remedy = if option == "--data-dir" {
                format!("magikrun system prune --all, or give {option} DIR")
            } else {
                self.as_root(format!(
                    "mount -o remount,size=64M {existing}, or give {option} DIR"
                ))
            };
            findings.push(warn(name, detail, remedy));
        }
        if option == "--data-dir" && (place.noexec || place.nosuid) {
            let flag = if place.noexec { "noexec" } else { "nosuid" };
            let effect = match (place.noexec, self.platform.overlayfs.available) {
                (true, true) => "programs in volumes cannot be run",
                (true, false) => "no program can be run in root file systems that are copies",
                (false, _) => "setuid programs in volumes have no effect",
            };
            let undone = flag.trim_start_matches("no");
            let remedy = self.as_root(format!("mount -o remount,{undone} {existing}"));
            findings.push(warn(name, format!("{path}: mounted {flag}: {effect}"), remedy));
        }
        if findings.is_empty() {
            let free = output::size(place.free);
            findings.push(ok(name, format!("{path}, {free} free")));
        }
        findings
    }

    fn loopback(&self) -> Finding {
        if self.loopback {
            return ok("loopback", "127.0.0.1 answers");
        }
        let remedy = self.as_root("ip link set lo up");
        warn(
            "loopback",
            "127.0.0.1 does not answer: no hostPort, no port-forward",
            remedy,
        )
    }

    fn certificates(&self) -> Finding {
        if self.certificates {
            return ok("certificates", "of authorities are installed");
        }
        let remedy = self.as_root(self.family.install(Package::Certificates));
        warn(
            "certificates",
            "none of authorities: registries cannot be trusted",
            remedy,
        )
    }

    fn clock(&self) -> Finding {
        match self.clock_behind {
            Some(behind) if behind > CLOCK_MARGIN => warn(
                "clock",
                format!(
                    "{} days before this program was built: certificates seem not yet valid",
                    behind.as_secs() / 86_400
                ),
                self.as_root("timedatectl set-ntp true"),
            ),
            _ => ok("clock", jiff::Timestamp::now().strftime("%F %T UTC").to_string()),
        }
    }
}

impl Place {
    /// Whether no pod can have files there.
    fn unusable(&self) -> bool {
        self.unknown.is_some() || self.read_only || self.refused.is_some()
    }
}

#[cfg(test)]
mod tests;
