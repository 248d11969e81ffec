//! The bundles: busybox, and the configuration that `runc spec` writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use xtask::host;

/// What the containers have, as `runc spec` has it.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// busybox as `program` and `true`, and a configuration with this filter.
pub(super) fn write(dir: &Path, program: &str, seccomp: Option<&Value>) -> Result<()> {
    let bin = dir.join("rootfs/bin");
    fs::create_dir_all(&bin)?;
    for path in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(dir.join("rootfs").join(path))?;
    }
    fs::copy("/bin/busybox", bin.join(program)).context("/bin/busybox (Debian: busybox-static)")?;
    if program != "true" {
        fs::copy("/bin/busybox", bin.join("true"))?;
    }
    let args = if program == "true" {
        json!(["true"])
    } else {
        json!([program, "1000"])
    };
    let caps = json!(CAPABILITIES);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if let Some(filter) = seccomp {
        config["linux"]["seccomp"] = filter.clone();
    }
    fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)?;
    Ok(())
}

/// The rules of the profile that magik-image carries that hold on x86-64 for [`CAPABILITIES`].
pub(super) fn filter() -> Result<Value> {
    let file = profile();
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut profile: Value = serde_json::from_str(&text)?;
    let rules = profile["syscalls"].as_array_mut().context("syscalls")?;
    let has = |rule: &Value, condition: &str| rule[condition].as_object().is_some_and(|c| !c.is_empty());
    rules.retain(|rule| {
        let for_us = rule["includes"] == json!({"arches": ["amd64", "x32"]});
        let excluded = rule["excludes"]["caps"].as_array();
        let not_for_us = excluded.is_some_and(|caps| {
            caps.iter()
                .any(|cap| CAPABILITIES.contains(&cap.as_str().unwrap_or("")))
        });
        (for_us || !has(rule, "includes")) && !not_for_us
    });
    for rule in rules.iter_mut() {
        let rule = rule.as_object_mut().context("a rule")?;
        rule.retain(|key, value| {
            ["names", "action", "args", "errnoRet"].contains(&key.as_str()) && !value.is_null()
        });
    }
    let architectures = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    Ok(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": architectures, "syscalls": profile["syscalls"]}),
    )
}

/// The profile that magik-image carries.
pub(super) fn profile() -> PathBuf {
    host::workspace().join("crates/magik-image/src/bundle/seccomp.json")
}
