//! Namespaces, shared and new.

use std::fs;

use anyhow::ensure;
use magikrun_tests::dropin::{Check, Client};

use crate::support::{Sleeper, contains};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("a network of its own has loopback only", |p| {
        p.says("run --rm box ls /sys/class/net", "lo")
    }),
    ("the host's network", |p| {
        let host = fs::read_link("/proc/thread-self/ns/net")?;
        p.says(
            "run --rm --net host box readlink /proc/self/ns/net",
            &host.to_string_lossy(),
        )
    }),
    ("the host's pids", |p| {
        p.ok("run --rm --pid host box sh -c 'echo $$'").and_then(|o| {
            ensure!(o != "1", "pid 1");
            Ok(())
        })
    }),
    ("the host's ipc and uts", |p| {
        for kind in ["ipc", "uts"] {
            let host = fs::read_link(format!("/proc/thread-self/ns/{kind}"))?;
            p.says(
                &format!("run --rm --{kind} host box readlink /proc/self/ns/{kind}"),
                &host.to_string_lossy(),
            )?;
        }
        Ok(())
    }),
    ("another container's network, ipc and pids", |p| {
        let c = Sleeper::new(p, "--ipc shareable")?;
        for (option, kind) in [("net", "net"), ("ipc", "ipc"), ("pid", "pid")] {
            let theirs = c.exec("", &format!("readlink /proc/1/ns/{kind}"))?;
            p.says(
                &format!(
                    "run --rm --{option} container:{} box readlink /proc/self/ns/{kind}",
                    c.name
                ),
                &theirs,
            )?;
        }
        Ok(())
    }),
    ("a cgroup namespace", |p| {
        p.ok("run --rm --cgroupns private box cat /proc/self/cgroup")
            .and_then(|o| contains(&o, ":/\n"))
    }),
    ("a user namespace", |p| {
        let out = p.ok("run --rm --uidmap 0:100000:1000 --gidmap 0:200000:1000 box sh -c 'cat /proc/self/uid_map /proc/self/gid_map; id -u'")?;
        let words: Vec<_> = out.split_whitespace().collect();
        ensure!(
            words == ["0", "100000", "1000", "0", "200000", "1000", "0"],
            "{out}"
        );
        Ok(())
    }),
    ("a user namespace with a volume and a terminal", |p| {
        let dir = p.directory()?;
        fs::write(format!("{dir}/f"), "mapped\n")?;
        let line = format!("run --rm -t --uidmap 0:100000:1000 -v {dir}:/v box cat /v/f");
        p.terminal(&line, "")?.code(0)?.has("mapped").map(drop)
    }),
];
