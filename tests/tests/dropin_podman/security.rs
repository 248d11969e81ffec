//! Capabilities, seccomp, users, sysctls, devices.

use std::fs;

use magikrun_tests::dropin::{Check, Client};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("the default capabilities", |p| {
        p.says(
            "run --rm box sh -c 'grep CapBnd /proc/self/status'",
            "CapBnd:\t00000000a80425fb",
        )
    }),
    ("no capabilities for another user", |p| {
        p.says(
            "run --rm -u 1000 box sh -c 'grep CapEff /proc/self/status'",
            "CapEff:\t0000000000000000",
        )
    }),
    ("capabilities dropped", |p| {
        p.says(
            "run --rm --cap-drop ALL box sh -c 'grep CapEff /proc/self/status'",
            "CapEff:\t0000000000000000",
        )
    }),
    ("a capability added", |p| {
        p.run("run --rm box ip link set lo down")?.failed()?;
        p.ok("run --rm --cap-add NET_ADMIN box ip link set lo down")
            .map(drop)
    }),
    ("no new privileges", |p| {
        p.says(
            "run --rm --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1",
        )
    }),
    ("seccomp filters", |p| {
        p.says("run --rm box grep Seccomp: /proc/self/status", "Seccomp:\t2")
    }),
    ("seccomp off", |p| {
        p.says(
            "run --rm --security-opt seccomp=unconfined box grep Seccomp: /proc/self/status",
            "Seccomp:\t0",
        )
    }),
    ("a seccomp profile of the user's", |p| {
        let file = format!("{}/profile.json", p.directory()?);
        let rule = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
        fs::write(&file, rule.to_string())?;
        p.exits(&format!("run --rm --security-opt seccomp={file} box mkdir /x"), 1)?
            .complains("no space left")
            .map(drop)
    }),
    ("masked paths", |p| {
        let masked = "--security-opt mask=/data:/etc/plain";
        p.says(
            &format!("run --rm {masked} box sh -c 'ls /data; cat /etc/plain; ls /proc/acpi 2>/dev/null'"),
            "",
        )?;
        p.run(&format!("run --rm {masked} box touch /data/x"))?
            .failed()
            .map(drop)
    }),
    ("read-only paths", |p| {
        p.run("run --rm box sh -c 'echo 1 >/proc/sys/kernel/panic'")?
            .failed()?
            .complains("read-only")
            .map(drop)
    }),
    ("paths unmasked", |p| {
        p.ok("run --rm box grep -q ' /proc/sys ' /proc/mounts")?;
        p.exits(
            "run --rm --security-opt unmask=ALL box grep ' /proc/sys ' /proc/mounts",
            1,
        )
        .map(drop)
    }),
    ("a sysctl", |p| {
        p.says("run --rm --sysctl net.ipv4.ip_unprivileged_port_start=81 box cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81")
    }),
    ("resource limits of the process", |p| {
        p.says("run --rm --ulimit nofile=512:1024 --ulimit core=0 --ulimit nproc=32768:32768 box sh -c 'ulimit -n; ulimit -Hn; ulimit -c'", "512\n1024\n0")
    }),
    ("a device", |p| {
        p.says(
            "run --rm --device /dev/zero:/dev/nought box sh -c 'head -c 3 /dev/nought | wc -c'",
            "3",
        )
    }),
    ("a device read-only", |p| {
        let line = |script| format!("run --rm --device /dev/fuse:/dev/given:r box sh -c '{script}'");
        p.ok(&line(": </dev/given"))?;
        p.run(&line(": >/dev/given"))?
            .failed()?
            .complains("not permitted")
            .map(drop)
    }),
    ("a device that was not given cannot be opened", |p| {
        p.run("run --rm --cap-add MKNOD box sh -c 'mknod /x c 10 229 && : </x'")?
            .failed()?
            .complains("not permitted")
            .map(drop)
    }),
    ("a device rule", |p| {
        p.ok("run --rm --cap-add MKNOD --device-cgroup-rule 'c 10:229 r' box sh -c 'mknod /x c 10 229 && : </x'").map(drop)
    }),
];
