//! A container's cgroups: resource use in runc's form, and notice of an out-of-memory kill.
//!
//! They are found through `/proc/<pid>/cgroup` and our own mounts, on cgroup v1, v2 and hybrids, so
//! that nothing here depends on who made them.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use magik_sys::mountinfo::{self, Mount};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd},
    fs::{Mode, OFlags},
};
use serde_json::{Map, Value, json};

/// The directory of each controller; `""` is the unified (v2) hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroups {
    directories: BTreeMap<String, PathBuf>,
    v2: bool,
}

impl Cgroups {
    /// The cgroups that the process is in.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/cgroup");
        let membership = fs::read_to_string(&path).with_context(|| path)?;
        let mounts = mountinfo::read().context("the table of mounts")?;
        Ok(Self::parse(&membership, &mounts))
    }

    fn parse(membership: &str, table: &[u8]) -> Self {
        let mounts = mounts(table);
        let mut directories = BTreeMap::new();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            for controller in controllers.split(',') {
                if let Some(mount) = mounts.get(controller.trim_start_matches("name=")) {
                    directories.insert(controller.to_owned(), directory(mount, path));
                }
            }
        }
        // A hybrid's unified hierarchy carries no resource controller.
        let v2 = !directories.contains_key("memory")
            && !directories.contains_key("cpu")
            && directories.contains_key("");
        Self { directories, v2 }
    }

    fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        let controller = if self.v2 { "" } else { controller };
        Some(self.directories.get(controller)?.join(name))
    }

    fn text(&self, controller: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.file(controller, name)?).ok()
    }

    fn number(&self, controller: &str, name: &str) -> Option<u64> {
        number(self.text(controller, name)?.trim())
    }

    fn table(&self, controller: &str, name: &str) -> BTreeMap<String, u64> {
        self.text(controller, name)
            .map(|text| table(&text))
            .unwrap_or_default()
    }

    /// Resource use in the form of runc's `events` (its `types.Stats`).
    pub(super) fn stats(&self) -> Value {
        json!({
            "cpu": if self.v2 { self.cpu_v2() } else { self.cpu_v1() },
            "memory": if self.v2 { self.memory_v2() } else { self.memory_v1() },
            "pids": self.pids(),
            "blkio": self.blkio(),
            "hugetlb": {},
            "intel_rdt": {},
            "network_interfaces": null,
        })
    }

    fn cpu_v1(&self) -> Value {
        let list = |name| -> Vec<u64> {
            self.text("cpuacct", name)
                .map(|t| t.split_whitespace().filter_map(number).collect())
                .unwrap_or_default()
        };
        let throttling = self.table("cpu", "cpu.stat");
        json!({
            "usage": {
                "total": self.number("cpuacct", "cpuacct.usage").unwrap_or(0),
                "percpu": list("cpuacct.usage_percpu"),
                "percpu_kernel": list("cpuacct.usage_percpu_sys"),
                "percpu_user": list("cpuacct.usage_percpu_user"),
                "kernel": self.number("cpuacct", "cpuacct.usage_sys").unwrap_or(0),
                "user": self.number("cpuacct", "cpuacct.usage_user").unwrap_or(0),
            },
            "throttling": {
                "periods": get(&throttling, "nr_periods"),
                "throttledPeriods": get(&throttling, "nr_throttled"),
                "throttledTime": get(&throttling, "throttled_time"),
            },
        })
    }

    fn cpu_v2(&self) -> Value {
        let stat = self.table("cpu", "cpu.stat");
        let nanoseconds = |key| get(&stat, key).saturating_mul(1000);
        json!({
            "usage": {
                "total": nanoseconds("usage_usec"),
                "kernel": nanoseconds("system_usec"),
                "user": nanoseconds("user_usec"),
            },
            "throttling": {
                "periods": get(&stat, "nr_periods"),
                "throttledPeriods": get(&stat, "nr_throttled"),
                "throttledTime": nanoseconds("throttled_usec"),
            },
        })
    }

    fn memory_v1(&self) -> Value {
        let stat = self.table("memory", "memory.stat");
        let entry = |prefix: &str| {
            let number = |what| self.number("memory", &format!("{prefix}.{what}")).unwrap_or(0);
            json!({
                "limit": number("limit_in_bytes"), "usage": number("usage_in_bytes"),
                "max": number("max_usage_in_bytes"), "failcnt": number("failcnt"),
            })
        };
        json!({
            "cache": get(&stat, "cache"),
            "usage": entry("memory"), "swap": entry("memory.memsw"),
            "kernel": entry("memory.kmem"), "kernelTCP": entry("memory.kmem.tcp"),
            "raw": stat,
        })
    }

    fn memory_v2(&self) -> Value {
        let stat = self.table("memory", "memory.stat");
        let number = |name| self.number("memory", name).unwrap_or(0);
        let usage = number("memory.current");
        json!({
            "cache": get(&stat, "file"),
            "usage": {
                // runc's "no limit".
                "limit": self.number("memory", "memory.max").unwrap_or(u64::MAX),
                "usage": usage, "max": number("memory.peak"), "failcnt": get(&self.table("memory", "memory.events"), "max"),
            },
            // runc counts memory and swap together, as v1 does.
            "swap": {
                "limit": self.number("memory", "memory.swap.max").unwrap_or(u64::MAX),
                "usage": usage.saturating_add(number("memory.swap.current")), "failcnt": 0,
            },
            "kernel": {"failcnt": 0}, "kernelTCP": {"failcnt": 0},
            "raw": stat,
        })
    }

    fn pids(&self) -> Value {
        let mut pids = Map::new();
        pids.insert(
            "current".into(),
            self.number("pids", "pids.current").unwrap_or(0).into(),
        );
        // Absent where there is no limit ("max").
        if let Some(limit) = self.number("pids", "pids.max") {
            pids.insert("limit".into(), limit.into());
        }
        pids.into()
    }

    fn blkio(&self) -> Value {
        if self.v2 {
            let text = self.text("io", "io.stat").unwrap_or_default();
            return json!({"ioServiceBytesRecursive": io_v2(&text, &[("rbytes", "Read"), ("wbytes", "Write")]),
                          "ioServicedRecursive": io_v2(&text, &[("rios", "Read"), ("wios", "Write")])});
        }
        let entries = |name| io_v1(&self.text("blkio", name).unwrap_or_default());
        json!({"ioServiceBytesRecursive": entries("blkio.throttle.io_service_bytes_recursive"),
               "ioServicedRecursive": entries("blkio.throttle.io_serviced_recursive")})
    }

    /// Notice of out-of-memory kills.
    pub(super) fn oom_notice(&self) -> Result<OomNotice> {
        let name = if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let path = self
            .file("memory", name)
            .context("the container has no memory cgroup")?;
        let open = |path: &Path, flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
                .with_context(|| path.display().to_string())
        };
        let file = open(&path, OFlags::RDONLY)?;
        if self.v2 {
            let kills = oom_kills(&path);
            return Ok(OomNotice {
                fd: file,
                path,
                source: OomSource::Events { kills },
            });
        }
        // Kernel documentation, cgroup-v1/memory.rst, "OOM Control".
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?;
        let control = open(&path.with_file_name("cgroup.event_control"), OFlags::WRONLY)?;
        let line = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
        rustix::io::write(&control, line.as_bytes())
            .with_context(|| format!("register for {}", path.display()))?;
        Ok(OomNotice {
            fd: event,
            path,
            source: OomSource::Control { _file: file },
        })
    }
}

/// The v2 counter of processes that the out-of-memory killer ended.
fn oom_kills(path: &Path) -> u64 {
    get(
        &fs::read_to_string(path)
            .map(|text| table(&text))
            .unwrap_or_default(),
        "oom_kill",
    )
}

/// A descriptor that reports out-of-memory kills.
#[derive(Debug)]
pub(super) struct OomNotice {
    fd: OwnedFd,
    path: PathBuf,
    source: OomSource,
}

#[derive(Debug)]
enum OomSource {
    /// v1: an eventfd; the kernel keeps the registration while the file is open.
    Control { _file: OwnedFd },
    /// v2: kernfs announces that the file changed; it counts other things too.
    Events { kills: u64 },
}

impl OomNotice {
    /// What to wait for.
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        // A changed kernfs file is an exceptional condition.
        let flags = if matches!(self.source, OomSource::Events { .. }) {
            PollFlags::PRI
        } else {
            PollFlags::IN
        };
        PollFd::new(&self.fd, flags)
    }

    /// Takes what was reported, and says whether it was a kill.
    pub(super) fn take(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match &mut self.source {
            OomSource::Control { .. } => {
                let signalled = rustix::io::read(&self.fd, &mut buffer).is_ok();
                // The removal of the cgroup is announced as well.
                signalled && self.path.exists()
            }
            OomSource::Events { kills } => {
                // Reading the polled descriptor is what re-arms it.
                let _ = rustix::io::pread(&self.fd, &mut buffer, 0);
                let now = oom_kills(&self.path);
                let more = now > *kills;
                *kills = now.max(*kills);
                more
            }
        }
    }
}

/// The directory of a process that is at `path` of a hierarchy.
fn directory(mount: &Mount<'_>, path: &str) -> PathBuf {
    let path = Path::new(path);
    // Within a cgroup namespace the mount's root may be below what /proc names.
    let relative = path
        .strip_prefix(&mount.root)
        .unwrap_or_else(|_| path.strip_prefix("/").unwrap_or(path));
    mount.point.join(relative)
}

/// Where each controller, and named hierarchy, is mounted.
fn mounts(table: &[u8]) -> BTreeMap<&str, Mount<'_>> {
    let mut mounts = BTreeMap::new();
    for mount in mountinfo::parse(table) {
        match mount.kind {
            "cgroup2" => {
                mounts.entry("").or_insert(mount);
            }
            "cgroup" => {
                for controller in mount.super_options.split(',') {
                    let controller = controller.trim_start_matches("name=");
                    mounts.entry(controller).or_insert_with(|| mount.clone());
                }
            }
            _ => {}
        }
    }
    mounts
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// `key value` lines.
fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), number(v.trim())?)))
        .collect()
}

fn get(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

/// `8:0 Read 4096` lines.
fn io_v1(text: &str) -> Vec<Value> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let (op, value) = (fields.next()?, number(fields.next()?)?);
        Some(json!({"major": number(major)?, "minor": number(minor)?, "op": op, "value": value}))
    };
    text.lines().filter_map(entry).collect()
}

/// `8:0 rbytes=4096 wbytes=0 …` lines.
fn io_v2(text: &str, keys: &[(&str, &str)]) -> Vec<Value> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let Some((device, values)) = line.split_once(' ') else {
            continue;
        };
        let Some((major, minor)) = device
            .split_once(':')
            .and_then(|(a, b)| Some((number(a)?, number(b)?)))
        else {
            continue;
        };
        for (key, op) in keys {
            let value = values
                .split_whitespace()
                .find_map(|v| number(v.strip_prefix(key)?.strip_prefix('=')?));
            if let Some(value) = value {
                entries.push(json!({"major": major, "minor": minor, "op": op, "value": value}));
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn finds_the_directories_of_a_hybrid() {
        let cgroups = Cgroups::parse(
            "4:memory:/m/c\n2:cpu,cpuacct:/m/c\n1:name=systemd:/\n0::/u\n",
            HYBRID,
        );
        assert!(!cgroups.v2);
        let file = |controller| cgroups.file(controller, "x");
        assert_eq!(file("memory"), Some("/sys/fs/cgroup/memory/m/c/x".into()));
        assert_eq!(file("cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct/m/c/x".into()));
        assert_eq!(file("pids"), None);
    }

    #[test]
    fn finds_the_one_directory_of_v2_also_below_a_mounted_part() {
        for (root, file) in [("/", "/sys/fs/cgroup/m/c/x"), ("/m", "/sys/fs/cgroup/c/x")] {
            let table = format!("30 24 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
            let cgroups = Cgroups::parse("0::/m/c\n", table.as_bytes());
            assert!(cgroups.v2);
            assert_eq!(cgroups.file("memory", "x"), Some(file.into()));
        }
    }

    /// A v2 directory as a tree of plain files, so that the test needs no cgroup of this host.
    #[test]
    fn reads_v2_files_into_runcs_form() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "cpu.stat",
                "usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 2\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "file 1024\nanon 12\n"),
            ("memory.events", "oom 1\noom_kill 3\n"),
            ("pids.current", "2\n"),
            ("pids.max", "10\n"),
            ("io.stat", "8:0 rbytes=5 wbytes=6 rios=1 wios=2\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let cgroups = Cgroups {
            directories: [(String::new(), dir.path().to_owned())].into(),
            v2: true,
        };
        let stats = cgroups.stats();
        assert_eq!(stats["cpu"]["usage"]["total"], 7000);
        assert_eq!(
            stats["memory"]["usage"],
            json!({"limit": u64::MAX, "usage": 4096, "max": 0, "failcnt": 0})
        );
        assert_eq!(stats["memory"]["raw"]["anon"], 12);
        assert_eq!(stats["pids"], json!({"current": 2, "limit": 10}));
        assert_eq!(
            stats["blkio"]["ioServiceBytesRecursive"][1],
            json!({"major": 8, "minor": 0, "op": "Write", "value": 6})
        );
        assert_eq!(oom_kills(&dir.path().join("memory.events")), 3);
    }

    #[test]
    fn reads_v1_block_io_lines() {
        assert_eq!(
            io_v1("8:16 Read 12\nTotal 12\n"),
            [json!({"major": 8, "minor": 16, "op": "Read", "value": 12})]
        );
    }
}
