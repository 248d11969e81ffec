use std::{fs, path::Path};

use magik_oci::Platform;

use super::*;
use crate::system::check::{
    distribution::Family,
    facts::{Sysctls, kernel},
};

fn yes(detail: &str) -> Capability {
    Capability {
        available: true,
        detail: detail.into(),
    }
}

fn no(detail: &str) -> Capability {
    Capability {
        available: false,
        detail: detail.into(),
    }
}

fn place(path: &str) -> Place {
    Place {
        path: path.into(),
        existing: "/var".into(),
        refused: None,
        read_only: false,
        noexec: false,
        nosuid: false,
        free: 100 << 30,
        no_inodes: false,
        unknown: None,
    }
}

/// A host where everything is as it should be.
fn good() -> Facts {
    let all = yes("yes");
    Facts {
        root: true,
        family: Family::Debian,
        platform: Platform {
            native: all.clone(),
            cgroups: yes("cgroup v2: cpuset cpu io memory hugetlb pids rdma misc"),
            microvm: all.clone(),
            wasm: all.clone(),
            overlayfs: all.clone(),
            seccomp: all.clone(),
            landlock: all.clone(),
            user_namespaces: all.clone(),
        },
        classes: [RuntimeClass::Native, RuntimeClass::MicroVm, RuntimeClass::Wasm]
            .map(|class| (class, all.clone()))
            .to_vec(),
        sysctls: Sysctls::default(),
        kernel: (6, 12),
        subordinate: [String::new(), String::new()],
        kvm: Ok(()),
        kvm_group: true,
        qemu: true,
        vm_files: Vec::new(),
        data: place("/var/lib/magikrun"),
        state: place("/run/magikrun"),
        cgroup_writable: true,
        loopback: true,
        clock_behind: None,
        certificates: true,
    }
}

/// What is not as it should be: state, name, and all that is said.
fn wrong(change: impl FnOnce(&mut Facts)) -> Vec<(State, &'static str, String)> {
    let mut facts = good();
    change(&mut facts);
    let findings = facts.findings().into_iter().filter(|f| f.state != State::Ok);
    findings
        .map(|f| {
            let remedy = f.remedy.expect("what is wrong has a remedy");
            (f.state, f.name, format!("{}: {remedy}", f.detail))
        })
        .collect()
}

#[test]
fn a_host_that_has_everything_is_told_so() {
    assert_eq!(wrong(|_| {}), []);
    assert_eq!(good().runnable(), ["native", "microvm", "wasm"]);
    assert!(good().findings().len() >= 15);
}

/// A change of the good host, and what is then said of what.
type Case = (fn(&mut Facts), State, &'static str, &'static str);

const CASES: &[Case] = &[
    (
        |f| f.platform.cgroups = no("none"),
        State::Missing,
        "cgroups",
        "mount -t cgroup2",
    ),
    (
        |f| f.platform.cgroups = yes("cgroup v2: cpu pids"),
        State::Warn,
        "cgroups",
        "cgroup_enable=memory",
    ),
    (
        |f| f.cgroup_writable = false,
        State::Missing,
        "cgroups",
        "remount,rw /sys/fs/cgroup",
    ),
    (
        |f| f.platform.overlayfs = no("fsopen"),
        State::Warn,
        "overlayfs",
        "modprobe overlay",
    ),
    (
        |f| {
            f.platform.user_namespaces = no("x");
            f.sysctls.unprivileged_userns_clone = Some(0);
        },
        State::Warn,
        "user namespaces",
        "kernel.unprivileged_userns_clone=1",
    ),
    (
        |f| {
            f.platform.user_namespaces = no("x");
            f.sysctls.max_user_namespaces = Some(0);
        },
        State::Warn,
        "user namespaces",
        "user.max_user_namespaces=15000",
    ),
    (
        |f| {
            f.platform.user_namespaces = no("x");
            f.sysctls.apparmor_restrict = Some(1);
        },
        State::Warn,
        "user namespaces",
        "apparmor_restrict_unprivileged_userns=0",
    ),
    (|f| f.kernel = (6, 1), State::Warn, "users of pods", "Linux 6.3"),
    (
        |f| f.subordinate[0] = "magikrun:1:65536".into(),
        State::Warn,
        "users of pods",
        "the same line",
    ),
    (
        |f| f.platform.seccomp = no("x"),
        State::Warn,
        "seccomp",
        "CONFIG_SECCOMP_FILTER",
    ),
    (|f| f.platform.landlock = no("x"), State::Warn, "Landlock", "lsm="),
    (
        |f| f.kvm = Err(Errno::ACCESS),
        State::Warn,
        "KVM",
        "usermod -aG kvm",
    ),
    (
        |f| f.kvm = Err(Errno::NOENT),
        State::Warn,
        "KVM",
        "modprobe -a kvm",
    ),
    (
        |f| f.vm_files = vec!["vmlinux is missing".into()],
        State::Warn,
        "microVM pods",
        "cargo xtask vm",
    ),
    (
        |f| {
            f.classes[1].1 = no("no QEMU");
            f.qemu = false;
        },
        State::Warn,
        "microVM pods",
        "apt install qemu-system-x86",
    ),
    (
        |f| {
            f.family = Family::Alpine;
            f.certificates = false;
        },
        State::Warn,
        "certificates",
        "apk add ca-certificates",
    ),
    (
        |f| f.data.noexec = true,
        State::Warn,
        "data root",
        "remount,exec /var",
    ),
    (
        |f| f.data.nosuid = true,
        State::Warn,
        "data root",
        "remount,suid /var",
    ),
    (
        |f| f.data.free = 5 << 20,
        State::Warn,
        "data root",
        "system prune --all",
    ),
    (|f| f.data.no_inodes = true, State::Warn, "data root", "no inodes"),
    (
        |f| f.state.free = 1 << 20,
        State::Warn,
        "state root",
        "remount,size=",
    ),
    (
        |f| f.state.refused = Some(ErrorKind::PermissionDenied),
        State::Missing,
        "state root",
        "--state-dir",
    ),
    (
        |f| f.loopback = false,
        State::Warn,
        "loopback",
        "ip link set lo up",
    ),
    (
        |f| f.clock_behind = Some(Duration::from_secs(30 * 86_400)),
        State::Warn,
        "clock",
        "timedatectl",
    ),
];

#[test]
fn each_thing_that_is_wrong_is_named_with_the_command_that_mends_it() {
    for (change, state, name, part) in CASES {
        let found = wrong(change);
        let [(is, named, said)] = &found[..] else {
            panic!("{name}: {found:?}");
        };
        assert_eq!((is, named), (state, name));
        assert!(said.contains(part) && !said.contains('\n'), "{name}: {said}");
    }
}

#[test]
fn where_there_is_no_place_for_files_nothing_runs() {
    let mut facts = good();
    facts.data.read_only = true;
    assert!(facts.runnable().is_empty());
    let mut facts = good();
    facts.classes[0].1 = no("needs root");
    assert_eq!(facts.runnable(), ["microvm", "wasm"]);
}

#[test]
fn who_is_not_root_is_told_to_become_it_where_that_helps() {
    let found = wrong(|f| {
        f.root = false;
        f.classes[0].1 = no("needs root");
        f.platform.user_namespaces = no("denied");
        f.sysctls.max_user_namespaces = Some(0);
    });
    let said = |name: &str| &found.iter().find(|(_, n, _)| *n == name).unwrap().2;
    assert!(said("native pods").contains("sudo"));
    assert!(said("user namespaces").contains("sudo sh -c '"));
}

#[test]
fn a_place_is_looked_at_where_it_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("not/yet");
    let found = Place::of(Ok(there.clone()));
    assert_eq!(
        (found.path, found.existing.as_path()),
        (there.clone(), dir.path())
    );
    assert!(found.refused.is_none() && !found.read_only && found.free > 0);
    fs::write(dir.path().join("not"), "a file").unwrap();
    assert_eq!(Place::of(Ok(there)).existing, dir.path());
    let unknown = Place::of(Err(anyhow::anyhow!("no HOME")));
    assert!(unknown.unusable() && unknown.path == Path::new("/"));
    assert_eq!(kernel("6.12.3-amd64"), (6, 12));
    assert_eq!(kernel("nonsense"), (0, 0));
}
