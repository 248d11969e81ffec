use oci_spec::runtime::{Capability, LinuxSeccompOperator};

use super::*;
use crate::bundle::DEFAULT_CAPABILITIES;

fn action_of(profile: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, Option<u32>)> {
    let rules = profile.syscalls().as_ref().unwrap();
    let naming = rules.iter().filter(|rule| rule.names().iter().any(|n| n == name));
    naming.map(|rule| (rule.action(), rule.errno_ret())).collect()
}

/// What the profile does about a call with these arguments: every rule that matches says the same.
fn decide(profile: &LinuxSeccomp, name: &str, args: &[u64]) -> (LinuxSeccompAction, Option<u32>) {
    let holds = |arg: &LinuxSeccompArg| {
        let value = args[arg.index()];
        let (first, second) = (arg.value(), arg.value_two().unwrap_or(0));
        match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => value == first,
            LinuxSeccompOperator::ScmpCmpNe => value != first,
            LinuxSeccompOperator::ScmpCmpLt => value < first,
            LinuxSeccompOperator::ScmpCmpMaskedEq => value & first == second,
            other => panic!("{other:?}"),
        }
    };
    let rules = profile.syscalls().as_ref().unwrap().iter();
    let mut matching = rules
        .filter(|rule| rule.names().iter().any(|n| n == name))
        .filter(|rule| rule.args().iter().flatten().all(holds))
        .map(|rule| (rule.action(), rule.errno_ret()));
    let first = matching.next();
    assert!(
        matching.all(|other| Some(other) == first),
        "{name} {args:?}: contradictory"
    );
    first.unwrap_or((profile.default_action(), profile.default_errno_ret()))
}

fn errno(number: u32) -> (LinuxSeccompAction, Option<u32>) {
    (LinuxSeccompAction::ScmpActErrno, Some(number))
}

const ALLOW: (LinuxSeccompAction, Option<u32>) = (LinuxSeccompAction::ScmpActAllow, None);
const EPERM: (LinuxSeccompAction, Option<u32>) = (LinuxSeccompAction::ScmpActErrno, Some(1));

#[test]
fn unknown_calls_answer_enosys_and_privileged_ones_eperm() {
    let profile = default_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
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
    let profile = default_for(X86_64, &[Capability::SysAdmin, Capability::SysModule].into()).unwrap();
    assert_eq!(action_of(&profile, "bpf"), [ALLOW]);
    assert_eq!(action_of(&profile, "init_module"), [ALLOW]);
    assert_eq!(action_of(&profile, "chroot"), [EPERM]);
}

#[test]
fn machine_specific_calls_are_there_for_their_machine_only() {
    let caps = DEFAULT_CAPABILITIES.into();
    let (intel, arm) = (
        default_for(X86_64, &caps).unwrap(),
        default_for(AARCH64, &caps).unwrap(),
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
    let profile = default_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
    let plain = profile
        .syscalls()
        .as_ref()
        .unwrap()
        .iter()
        .filter(|rule| rule.args().is_none());
    assert_eq!(plain.count(), 2, "allow, and EPERM");
    // personality 0, 8, 0x20000, 0x20008, -1; socket: families below 16, netlink and its audit,
    // nine ranges, two refused.
    assert_eq!(action_of(&profile, "personality").len(), 5);
    assert_eq!(action_of(&profile, "socket").len(), 14);
    let size = serde_json::to_vec(&profile).unwrap().len();
    assert!(size < 9000, "{size} bytes of config.json");
}

#[test]
fn what_leads_out_of_a_container_needs_its_capability() {
    let default = default_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
    let guarded = [
        (
            "unshare setns mount umount umount2 pivot_root fsopen fsmount fsconfig fspick open_tree
             move_mount mount_setattr keyctl add_key request_key quotactl quotactl_fd swapon swapoff
             fanotify_init lookup_dcookie sethostname setdomainname",
            Capability::SysAdmin,
        ),
        ("bpf", Capability::Bpf),
        ("perf_event_open", Capability::Perfmon),
        ("syslog", Capability::Syslog),
        ("reboot kexec_load kexec_file_load", Capability::SysBoot),
        ("init_module finit_module delete_module", Capability::SysModule),
        ("mbind set_mempolicy get_mempolicy", Capability::SysNice),
        ("acct", Capability::SysPacct),
        ("pidfd_getfd kcmp process_madvise", Capability::SysPtrace),
        ("ioperm iopl", Capability::SysRawio),
        ("clock_settime settimeofday", Capability::SysTime),
        ("vhangup", Capability::SysTtyConfig),
        ("open_by_handle_at", Capability::DacReadSearch),
    ];
    for (names, capability) in guarded {
        let with = default_for(X86_64, &[capability].into()).unwrap();
        for name in names.split_whitespace() {
            assert_eq!(action_of(&default, name), [EPERM], "{name}");
            assert_eq!(action_of(&with, name), [ALLOW], "{name} with {capability}");
        }
    }
    for name in ["bpf", "perf_event_open", "syslog"] {
        let admin = default_for(X86_64, &[Capability::SysAdmin].into()).unwrap();
        assert_eq!(action_of(&admin, name), [ALLOW], "{name}");
    }
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"] {
        assert_eq!(decide(&default, name, &[]), errno(38), "{name}");
    }
    for name in "ptrace process_vm_readv fork vfork execve seccomp prctl".split_whitespace() {
        assert_eq!(action_of(&default, name), [ALLOW], "{name}");
    }
}

#[test]
fn clone_makes_processes_and_threads_but_no_namespaces() {
    let default = default_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
    let (fork, thread) = (0x11, 0x003d_0f00);
    for flags in [fork, thread, 0x4111, 0] {
        assert_eq!(decide(&default, "clone", &[flags]), ALLOW, "{flags:x}");
    }
    for namespace in [17, 25, 26, 27, 28, 29, 30].map(|bit| 1_u64 << bit) {
        for flags in [
            namespace,
            namespace | fork,
            namespace | thread,
            namespace | 0x1000_0000,
        ] {
            assert_eq!(decide(&default, "clone", &[flags]), EPERM, "{flags:x}");
            // The kernel does not look at the upper half.
            assert_eq!(decide(&default, "clone", &[flags | 1 << 40]), EPERM, "{flags:x}");
        }
    }
    let admin = default_for(X86_64, &[Capability::SysAdmin].into()).unwrap();
    assert_eq!(decide(&admin, "clone", &[0x1000_0011]), ALLOW);
    assert_eq!(decide(&admin, "clone3", &[]), ALLOW);
}

#[test]
fn sockets_are_of_every_family_but_vsock_and_alg() {
    let audit_write = [&DEFAULT_CAPABILITIES[..], &[Capability::AuditWrite]].concat();
    for capabilities in [
        Capabilities::from(DEFAULT_CAPABILITIES),
        audit_write.into_iter().collect(),
    ] {
        for machine in [X86_64, AARCH64] {
            let profile = default_for(machine, &capabilities).unwrap();
            for family in 0..46 {
                let expected = match family {
                    38 | 40 => errno(97),
                    18 | 19 => errno(38),
                    _ => ALLOW,
                };
                assert_eq!(
                    decide(&profile, "socket", &[family, 1, 0]),
                    expected,
                    "family {family}"
                );
                // The kernel reads an int: what is above it must not make another family of it.
                let disguised = decide(&profile, "socket", &[family | 1 << 32, 1, 0]);
                assert_ne!(disguised, ALLOW, "family {family} and more");
            }
            let audit = decide(&profile, "socket", &[16, 3, 9]);
            let may_audit = capabilities.contains(&Capability::AuditWrite);
            assert_eq!(audit, if may_audit { ALLOW } else { errno(22) });
        }
    }
    // It would open what the rules of socket(2) refuse. Not ENOSYS: a rule that says what the
    // default says is left out, and then libseccomp makes rules of its own for it.
    let default = default_for(X86_64, &DEFAULT_CAPABILITIES.into()).unwrap();
    assert_eq!(action_of(&default, "socketcall"), [EPERM]);
    let first = &default.syscalls().as_ref().unwrap()[0];
    assert!(
        first.names().iter().any(|name| name == "socketcall"),
        "libseccomp takes the first"
    );
}

#[test]
fn profiles_of_docker_and_the_runtime_spec_are_read() {
    let docker = br#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}, "comment": "c"},
                     {"name": "write", "action": "SCMP_ACT_ALLOW", "args": []},
                     {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                     {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                     {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "999.0"}},
                     {"names": ["acct"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}}]}"#;
    let read = |capabilities: &[Capability]| {
        let capabilities = capabilities.iter().copied().collect();
        document("p.json", docker, &capabilities).unwrap()
    };
    let profile = read(&[]);
    for (name, allowed) in [
        ("read", true),
        ("write", true),
        ("bpf", false),
        ("ptrace", true),
        ("kcmp", false),
        ("acct", false),
    ] {
        assert_eq!(action_of(&profile, name).len(), usize::from(allowed), "{name}");
    }
    assert_eq!(action_of(&read(&[Capability::SysAdmin]), "bpf"), [ALLOW]);

    let oci = br#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
                      "args": [{"index": 1, "value": 511, "op": "SCMP_CMP_EQ"}]}]}"#;
    let profile = document("p.json", oci, &Capabilities::new()).unwrap();
    assert_eq!(decide(&profile, "mkdir", &[0, 0o777]), errno(5));
    assert_eq!(profile.flags().as_ref().map(Vec::len), Some(1));

    let notify = br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    for (bad, part) in [
        (&b"{"[..], "EOF"),
        (b"[]", "seccomp profile p.json"),
        (b"{}", "defaultAction"),
        (br#"{"defaultAction": "SCMP_ACT_ALOW"}"#, "SCMP_ACT_ALOW"),
        (
            br#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#,
            "sycalls",
        ),
        (&notify[..], "SCMP_ACT_NOTIFY"),
    ] {
        let message = document("p.json", bad, &Capabilities::new())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part) && message.contains("p.json"), "{message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn profiles_are_read_from_below_their_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let profiles = dir.path().join("profiles");
    std::fs::create_dir_all(profiles.join("team")).unwrap();
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
    for name in ["profiles/a.json", "profiles/team/b.json", "outside.json"] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, profiles.join(name)).unwrap();
    link("a.json", "inside.json");
    link("../outside.json", "out.json");
    link(
        &dir.path().join("outside.json").display().to_string(),
        "absolute.json",
    );
    link("..", "up");
    std::fs::write(profiles.join("large.json"), " ".repeat(256 * 1024 + 1)).unwrap();
    let load = |name: &str| load_seccomp_profile(&profiles, name);
    for name in ["a.json", "team/b.json", "inside.json", "team//b.json"] {
        let expected = SeccompProfile::Document {
            name: name.into(),
            text: text.into(),
        };
        assert_eq!(load(name).unwrap(), expected);
    }
    for (name, part) in [
        ("", "is not a relative path"),
        ("../outside.json", "is not a relative path"),
        ("team/../a.json", "is not a relative path"),
        ("/etc/passwd", "is not a relative path"),
        ("out.json", "cross-device"),
        ("absolute.json", "cross-device"),
        ("up/outside.json", "cross-device"),
        ("missing.json", "No such file"),
        ("team", "is not a file"),
        ("large.json", "larger than 262144 bytes"),
    ] {
        let message = load(name).unwrap_err().to_string();
        assert!(
            message.to_lowercase().contains(&part.to_lowercase()),
            "{name}: {message}"
        );
    }
}
