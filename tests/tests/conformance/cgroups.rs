//! Control groups (config-linux.md): what the configuration asks for stands in the container's cgroup.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use magikrun_test_world::{cgroup_file, cgroup_of};
use serde_json::{Value, json};

use crate::harness::{Bundle, Check, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "cgroups: memory limit and reservation",
        run: |r| memory(r, Place::Absolute),
    },
    Check {
        name: "cgroups: memory, relative path",
        run: |r| memory(r, Place::Relative),
    },
    Check {
        name: "cgroups: swap",
        run: swap,
    },
    Check {
        name: "cgroups: pids limit",
        run: |r| pids(r, Place::Absolute),
    },
    Check {
        name: "cgroups: pids, relative path",
        run: |r| pids(r, Place::Relative),
    },
    Check {
        name: "cgroups: cpu shares, quota and period",
        run: |r| cpu(r, Place::Absolute),
    },
    Check {
        name: "cgroups: cpu, relative path",
        run: |r| cpu(r, Place::Relative),
    },
    Check {
        name: "cgroups: cpuset",
        run: cpuset,
    },
    Check {
        name: "cgroups: devices denied by default",
        run: |r| devices(r, Place::Absolute),
    },
    Check {
        name: "cgroups: devices, relative path",
        run: |r| devices(r, Place::Relative),
    },
    Check {
        name: "cgroups: blkio weight or none",
        run: blkio,
    },
    Check {
        name: "cgroups: hugetlb limit",
        run: hugetlb,
    },
    Check {
        name: "cgroups: the program is inside",
        run: inside,
    },
    Check {
        name: "cgroups: a mount shows the container's",
        run: mount,
    },
];

#[derive(Clone, Copy)]
enum Place {
    Absolute,
    Relative,
}

/// A created container with these resources; a relative path is one below a place of the runtime's choice.
fn created<'r>(r: &'r Runtime, path: Place, resources: &Value) -> Result<Bundle<'r>> {
    let mut b = r.bundle("sleep 100")?;
    let mut all = resources.clone();
    if all.get("devices").is_none() {
        all["devices"] = json!([{"allow": false, "access": "rwm"}]);
    }
    b.config["linux"]["resources"] = all;
    if matches!(path, Place::Relative) {
        b.config["linux"]["cgroupsPath"] = json!(format!("magikrun-conformance/{}", b.id));
    }
    b.create()?;
    Ok(b)
}

/// The cgroup of the container's first process in that controller's hierarchy.
fn cgroup(b: &Bundle<'_>, controller: &str) -> Result<PathBuf> {
    let (dir, _) = cgroup_of(u64::try_from(b.pid()?)?, controller)?;
    ensure!(dir.ends_with(&b.id), "{controller}: {}", dir.display());
    Ok(dir)
}

/// The content of the v1 file or, on a unified hierarchy, of the v2 one.
fn value(b: &Bundle<'_>, controller: &str, v1: &str, v2: &str) -> Result<String> {
    cgroup(b, controller)?;
    cgroup_file(u64::try_from(b.pid()?)?, controller, v1, v2)
}

fn memory(r: &Runtime, path: Place) -> Result<()> {
    let b = created(
        r,
        path,
        &json!({"memory": {"limit": 50_593_792, "reservation": 33_554_432}}),
    )?;
    ensure!(value(&b, "memory", "memory.limit_in_bytes", "memory.max")? == "50593792");
    ensure!(value(&b, "memory", "memory.soft_limit_in_bytes", "memory.low")? == "33554432");
    Ok(())
}

fn swap(r: &Runtime) -> Result<()> {
    let b = created(
        r,
        Place::Absolute,
        &json!({"memory": {"limit": 50_593_792, "swap": 50_593_792}}),
    )?;
    let swap = value(&b, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")?;
    ensure!(swap == "50593792" || swap == "0", "{swap}");
    Ok(())
}

fn pids(r: &Runtime, path: Place) -> Result<()> {
    let b = created(r, path, &json!({"pids": {"limit": 1000}}))?;
    ensure!(value(&b, "pids", "pids.max", "pids.max")? == "1000");
    Ok(())
}

fn cpu(r: &Runtime, path: Place) -> Result<()> {
    let b = created(
        r,
        path,
        &json!({"cpu": {"shares": 1024, "quota": 50_000, "period": 100_000}}),
    )?;
    let dir = cgroup(&b, "cpu")?;
    if dir.join("cpu.shares").exists() {
        ensure!(
            value(&b, "cpu", "cpu.shares", "")? == "1024"
                && value(&b, "cpu", "cpu.cfs_quota_us", "")? == "50000"
        );
    } else {
        ensure!(value(&b, "cpu", "", "cpu.max")? == "50000 100000");
    }
    Ok(())
}

fn cpuset(r: &Runtime) -> Result<()> {
    let b = created(r, Place::Absolute, &json!({"cpu": {"cpus": "0", "mems": "0"}}))?;
    ensure!(
        value(&b, "cpuset", "cpuset.cpus", "cpuset.cpus")? == "0"
            && value(&b, "cpuset", "cpuset.mems", "cpuset.mems")? == "0"
    );
    Ok(())
}

fn devices(r: &Runtime, path: Place) -> Result<()> {
    let mut b = r.bundle(
        "mknod /n c 1 3 && echo x > /n && echo null; mknod /k c 1 11 2>/dev/null; (echo x > /k) 2>/dev/null && echo kmsg; true",
    )?;
    if matches!(path, Place::Relative) {
        b.config["linux"]["cgroupsPath"] = json!(format!("magikrun-conformance/{}", b.id));
    }
    for set in ["bounding", "effective", "permitted"] {
        b.config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
    }
    let out = b.run()?;
    ensure!(out == "null\n", "{out:?}");
    Ok(())
}

fn blkio(r: &Runtime) -> Result<()> {
    // Without a scheduler that has weights the file is missing; then a runtime may refuse or ignore it.
    let Ok(b) = created(r, Place::Absolute, &json!({"blockIO": {"weight": 10}})) else {
        ensure!(
            !Path::new("/sys/fs/cgroup/blkio/blkio.weight").exists(),
            "refused although the kernel has it"
        );
        return Ok(());
    };
    if let Ok(weight) = value(&b, "blkio", "blkio.weight", "io.weight") {
        ensure!(weight.ends_with("10"), "{weight}");
    }
    Ok(())
}

fn hugetlb(r: &Runtime) -> Result<()> {
    let b = created(
        r,
        Place::Absolute,
        &json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 2_097_152}]}),
    )?;
    ensure!(value(&b, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")? == "2097152");
    Ok(())
}

fn inside(r: &Runtime) -> Result<()> {
    let b = created(r, Place::Absolute, &json!({}))?;
    ensure!(cgroup(&b, "memory")?.ends_with(format!("magikrun-conformance/{}", b.id)));
    Ok(())
}

fn mount(r: &Runtime) -> Result<()> {
    let mut b = r.bundle("cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; touch /sys/fs/cgroup/x 2>/dev/null || echo ro")?;
    b.config["mounts"].as_array_mut().expect("mounts").push(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    b.config["linux"]["resources"]["pids"] = json!({"limit": 77});
    let out = b.run()?;
    ensure!(out == "77\nro\n", "{out:?}");
    Ok(())
}
