//! What a cgroup uses.

use std::{fs, path::Path};

use magik_oci::{CpuStats, MemoryStats, PidsStats, Stats};

use super::{Cgroup, Layout, field};

impl Cgroup<'_> {
    /// How many processes the OOM killer has ended in it.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = match self.layout {
            Layout::V2(root) => self.below(root).join("memory.events"),
            Layout::V1(_) => match self.v1_dir("memory") {
                Some(dir) => dir.join("memory.oom_control"),
                None => return 0,
            },
        };
        fs::read_to_string(file)
            .ok()
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// Present resource use; values of a missing controller are 0 or `None`.
    pub(crate) fn stats(&self) -> Stats {
        match self.layout {
            Layout::V2(root) => self.stats_v2(&self.below(root)),
            Layout::V1(_) => self.stats_v1(),
        }
    }

    fn stats_v2(&self, dir: &Path) -> Stats {
        let cpu = fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
        let micros = |name| field(&cpu, name).unwrap_or(0).saturating_mul(1000);
        let memory = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let usage = number(&dir.join("memory.current")).unwrap_or(0);
        Stats {
            cpu: CpuStats {
                usage_ns: micros("usage_usec"),
                user_ns: micros("user_usec"),
                system_ns: micros("system_usec"),
                throttled_ns: micros("throttled_usec"),
            },
            memory: MemoryStats {
                usage,
                working_set: usage.saturating_sub(field(&memory, "inactive_file").unwrap_or(0)),
                peak: number(&dir.join("memory.peak")).unwrap_or(usage),
                limit: number(&dir.join("memory.max")),
                oom_kills: self.oom_kills(),
            },
            pids: PidsStats {
                current: number(&dir.join("pids.current")).unwrap_or(0),
                limit: number(&dir.join("pids.max")),
            },
            fuel: None,
        }
    }

    fn stats_v1(&self) -> Stats {
        let file =
            |controller: &str, name: &str| self.v1_dir(controller).map(|d| d.join(name)).unwrap_or_default();
        let text =
            |controller: &str, name: &str| fs::read_to_string(file(controller, name)).unwrap_or_default();
        let value = |controller: &str, name: &str| number(&file(controller, name)).unwrap_or(0);
        let memory = text("memory", "memory.stat");
        let usage = value("memory", "memory.usage_in_bytes");
        // No limit is the greatest multiple of the page size that fits a signed 64-bit number.
        let unlimited = |limit: u64| limit >= (i64::MAX as u64) / 65536 * 65536 - 65536;
        Stats {
            cpu: CpuStats {
                usage_ns: value("cpuacct", "cpuacct.usage"),
                user_ns: value("cpuacct", "cpuacct.usage_user"),
                system_ns: value("cpuacct", "cpuacct.usage_sys"),
                throttled_ns: field(&text("cpu", "cpu.stat"), "throttled_time").unwrap_or(0),
            },
            memory: MemoryStats {
                usage,
                working_set: usage.saturating_sub(field(&memory, "total_inactive_file").unwrap_or(0)),
                peak: value("memory", "memory.max_usage_in_bytes"),
                limit: number(&file("memory", "memory.limit_in_bytes")).filter(|l| !unlimited(*l)),
                oom_kills: self.oom_kills(),
            },
            pids: PidsStats {
                current: value("pids", "pids.current"),
                limit: number(&file("pids", "pids.max")),
            },
            fuel: None,
        }
    }
}

/// A file's only number; `None` for `max` too.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
