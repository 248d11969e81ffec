//! Limits and statistics.

use anyhow::ensure;
use magikrun_tests::dropin::{Check, Client};

use crate::support::{Sleeper, cgroup_file, contains, equal};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("a memory limit", |p| {
        equal(
            &cgroup_file(p, "--memory 64m", "memory", "memory.limit_in_bytes", "memory.max")?,
            "67108864",
        )
    }),
    ("a processor quota", |p| {
        let out = cgroup_file(p, "--cpus 0.5", "cpu", "cpu.cfs_quota_us", "cpu.max")?;
        ensure!(out == "50000" || out == "50000 100000", "{out}");
        Ok(())
    }),
    ("processor shares", |p| {
        let out = cgroup_file(p, "--cpu-shares 512", "cpu", "cpu.shares", "cpu.weight")?;
        ensure!(out == "512" || out == "20" || out == "59", "{out}");
        Ok(())
    }),
    ("a processor set", |p| {
        p.ok("run --rm --cpuset-cpus 0 box grep Cpus_allowed_list /proc/self/status")
            .and_then(|o| equal(&o, "Cpus_allowed_list:\t0"))
    }),
    ("a limit of processes", |p| {
        equal(
            &cgroup_file(p, "--pids-limit 20", "pids", "pids.max", "pids.max")?,
            "20",
        )
    }),
    ("the oom score", |p| {
        p.says(
            "run --rm --oom-score-adj 500 box cat /proc/self/oom_score_adj",
            "500",
        )
    }),
    ("out of memory is 137", |p| {
        // Whether conmon 2.1.6 notices an out-of-memory kill in time to say so is a matter of luck, with every runtime.
        let c = Sleeper::running(p, "--memory 24m --memory-swap 24m", "tail /dev/zero")?;
        equal(&c.ok("wait", "")?, "137")
    }),
    ("update changes a live container", |p| {
        let c = Sleeper::new(p, "--memory 64m --memory-swap 128m")?;
        p.ok(&format!(
            "update --memory 48m --memory-swap 128m --cpu-shares 300 {}",
            c.name
        ))?;
        let script =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        equal(&c.exec("", &format!("sh -c '{script}'"))?, "50331648")
    }),
    ("stats", |p| {
        let c = Sleeper::new(p, "--memory 64m --memory-swap 64m")?;
        let out = p.ok(&format!(
            "stats --no-stream --format '{{{{.PIDs}}}} {{{{.MemUsage}}}}' {}",
            c.name
        ))?;
        contains(&out, "67.11MB")
    }),
    ("top", |p| {
        Sleeper::new(p, "")?
            .ok("top", "")
            .and_then(|o| contains(&o, "sleep"))
    }),
];
