//! The security context of a container.

use std::fs;

use anyhow::ensure;
use magikrun_tests::dropin::Check;

use magikrun_test_cri::api::{self, LinuxContainerSecurityContext, profile};

use crate::node::{Node, SLEEPER};

/// Changes the security context of a container's configuration.
fn with(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> impl FnOnce(&mut api::ContainerConfig) {
    |c| {
        let linux = c.linux.get_or_insert_default();
        change(linux.security_context.get_or_insert_default());
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// What a process may do, as the kernel says it.
const STATUS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)'";

pub(crate) const CHECKS: &[Check<Node>] = &[
    ("user, group and supplementary groups", |n| {
        let change = with(|s| {
            s.run_as_user = Some(api::Int64Value { value: 1234 });
            s.run_as_group = Some(api::Int64Value { value: 5678 });
            s.supplemental_groups = vec![9, 10];
        });
        n.pod()?
            .says("id -u; id -g; id -G", change, "1234\n5678\n5678 9 10")
    }),
    ("a user by name has the groups of the image", |n| {
        let change = with(|s| s.run_as_username = "web".to_owned());
        n.pod()?.says("id -u; id -g; id -G", change, "33\n34\n34 44")
    }),
    ("capabilities added and dropped", |n| {
        let change = with(|s| {
            s.capabilities = Some(api::Capability {
                add_capabilities: strings(["NET_ADMIN"]),
                drop_capabilities: strings(["CHOWN"]),
            });
        });
        let script = "ip link set lo down && echo added; chown 5 /etc/plain 2>/dev/null || echo dropped";
        n.pod()?.says(script, change, "added\ndropped")
    }),
    ("all capabilities dropped", |n| {
        let change = with(|s| {
            s.capabilities = Some(api::Capability {
                drop_capabilities: strings(["ALL"]),
                ..Default::default()
            });
        });
        let none = "0000000000000000";
        let expected = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|c| format!("{c}:\t{none}"))
            .join("\n");
        n.pod()?.says("grep Cap /proc/self/status", change, &expected)
    }),
    ("a read-only root", |n| {
        let change = with(|s| s.readonly_rootfs = true);
        n.pod()?.says(
            "touch /x 2>/dev/null || echo refused; touch /dev/shm/x",
            change,
            "refused",
        )
    }),
    ("no new privileges", |n| {
        let change = with(|s| s.no_new_privs = true);
        n.pod()?
            .says("grep NoNewPrivs /proc/self/status", change, "NoNewPrivs:\t1")
    }),
    ("the runtime's own seccomp profile", |n| {
        let change = with(|s| {
            s.seccomp = Some(api::SecurityProfile {
                profile_type: profile::RUNTIME_DEFAULT,
                ..Default::default()
            });
        });
        let script = "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null || echo refused";
        n.pod()?.says(script, change, "Seccomp:\t2\nrefused")
    }),
    ("a seccomp profile of the node's", |n| {
        let file = n.dir.join("no-mkdir.json");
        let rules =
            serde_json::json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]);
        let filter = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
        fs::write(&file, filter.to_string())?;
        let change = with(|s| {
            s.seccomp = Some(api::SecurityProfile {
                profile_type: profile::LOCALHOST,
                localhost_ref: file.display().to_string(),
            });
        });
        n.pod()?.says(
            "mkdir /x 2>&1 | grep -o 'not supported'; touch /y && echo fine",
            change,
            "not supported\nfine",
        )
    }),
    ("masked and read-only paths", |n| {
        let change = with(|s| {
            s.masked_paths = strings(["/proc/version", "/proc/nosuch", "/data"]);
            s.readonly_paths = strings(["/proc/sys", "/etc"]);
        });
        let script = "wc -c </proc/version; ls /data; touch /etc/x 2>/dev/null || echo refused; \
                      echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward || echo refused";
        n.pod()?.says(script, change, "0\nrefused\nrefused")
    }),
    ("a privileged container", |n| {
        let pod = n.pod_with(|p| {
            let linux = p.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().privileged = true;
        })?;
        let change = with(|s| s.privileged = true);
        // Devices of the host and every capability that there is here. (Whether sysfs can be written to depends on how the
        // sandbox's was mounted: the two are one file system.)
        let script = "test -e /dev/kmsg && echo device; mount -t tmpfs tmpfs /tmp && echo mount; grep CapEff /proc/self/status";
        let said = pod.run(script, change)?;
        let own = fs::read_to_string("/proc/self/status")?;
        let own = own.lines().find(|l| l.starts_with("CapEff")).unwrap_or_default();
        ensure!(said.trim() == format!("device\nmount\n{own}"), "{said} ({own})");
        Ok(())
    }),
    ("exec keeps the sandbox of its container", |n| {
        let pod = n.pod()?;
        let container = pod.start(
            SLEEPER,
            with(|s| {
                s.run_as_user = Some(api::Int64Value { value: 1234 });
                s.supplemental_groups = vec![9];
                s.no_new_privs = true;
                s.capabilities = Some(api::Capability {
                    drop_capabilities: strings(["CHOWN"]),
                    ..Default::default()
                });
                s.seccomp = Some(api::SecurityProfile {
                    profile_type: profile::RUNTIME_DEFAULT,
                    ..Default::default()
                });
            }),
        )?;
        let look =
            |pid: &str| container.exec(&format!("{STATUS} /proc/{pid}/status; cat /proc/{pid}/cgroup"));
        let (first, ours) = (look("1")?, look("self")?);
        ensure!(first == ours && ours.contains("Seccomp:\t2"), "{first}\n{ours}");
        Ok(())
    }),
];
