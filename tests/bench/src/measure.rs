//! What a runtime costs, read from the kernel.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// The name of the payload's processes.
pub(crate) const PAYLOAD: &str = "sleep";

/// Processor time used by everything in this world so far: the world's own cgroup is the root of what we see.
pub(crate) fn cpu_used() -> Result<Duration> {
    if let Ok(usage) = fs::read_to_string("/sys/fs/cgroup/cpuacct/cpuacct.usage") {
        return Ok(Duration::from_nanos(usage.trim().parse()?));
    }
    let stat =
        fs::read_to_string("/sys/fs/cgroup/cpu.stat").context("neither cpuacct nor cgroup v2's cpu.stat")?;
    let usage = stat
        .lines()
        .find_map(|l| l.strip_prefix("usage_usec "))
        .context("cpu.stat has no usage_usec")?;
    Ok(Duration::from_micros(usage.parse()?))
}

/// Processor time of the processes of a name so far, without their children's.
pub(crate) fn cpu_of(name: &str) -> Result<Duration> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut ticks = 0;
    for (pid, _) in processes(&[])?.iter().filter(|(_, comm)| comm == name) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name in brackets: the state is the third field, times are the 14th and 15th (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let times = fields.split_whitespace().skip(11).take(2);
        ticks += times.filter_map(|time| time.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(Duration::from_millis(ticks * 1000 / ticks_per_second))
}

/// The processes of this world but its PID 1, ourselves and `daemons`: pid and name.
fn processes(daemons: &[u32]) -> Result<Vec<(u32, String)>> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == 1 || pid == std::process::id() || daemons.contains(&pid) {
            continue;
        }
        // It may have ended meanwhile.
        if let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) {
            found.push((pid, comm.trim_end().to_owned()));
        }
    }
    Ok(found)
}

/// The payload must have this many processes; says how many others there are, without `daemons`.
pub(crate) fn payload_runs(count: usize, daemons: &[u32]) -> Result<usize> {
    let (payload, others): (Vec<_>, Vec<_>) = processes(daemons)?
        .into_iter()
        .partition(|(_, comm)| comm == PAYLOAD);
    ensure!(
        payload.len() == count,
        "{} of {count} containers run; beside them: {others:?}",
        payload.len()
    );
    Ok(others.len())
}

/// The proportional set size, in KiB, of every process but the payload's and `daemons`.
pub(crate) fn overhead_kib(daemons: &[u32]) -> Result<u64> {
    pss_of(daemons, |comm| comm != PAYLOAD)
}

/// The proportional set size, in KiB, of the processes of a name.
pub(crate) fn pss_kib(name: &str) -> Result<u64> {
    pss_of(&[], |comm| comm == name)
}

fn pss_of(daemons: &[u32], counts: impl Fn(&str) -> bool) -> Result<u64> {
    let mut sum = 0;
    for (pid, comm) in processes(daemons)? {
        let path = format!("/proc/{pid}/smaps_rollup");
        if !counts(&comm) || !Path::new(&path).exists() {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(&path) else {
            continue;
        };
        let pss = rollup
            .lines()
            .find_map(|l| l.strip_prefix("Pss:"))
            .unwrap_or("0 kB");
        sum += pss.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(sum)
}

/// Waits until no process is left but `daemons`: some runtimes clean up after their command has ended.
pub(crate) fn wait_until_quiet(daemons: &[u32]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let left = processes(daemons)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "still there after 30 s: {left:?}"
        );
        sleep(Duration::from_millis(5));
    }
}

/// Waits for a child and returns the most memory it had resident at once, in KiB.
#[allow(
    unsafe_code,
    reason = "neither std nor rustix returns a child's resource usage"
)]
pub(crate) fn wait_for_peak(child: &mut std::process::Child) -> Result<u64> {
    let pid = i32::try_from(child.id())?;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both out-pointers are valid for the call, and rusage is plain data for which zeroes are valid.
    let (answer, usage) = unsafe {
        let answer = libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr());
        (answer, usage.assume_init())
    };
    ensure!(answer == pid && status == 0, "pid {pid}: status {status}");
    Ok(u64::try_from(usage.ru_maxrss)?)
}
