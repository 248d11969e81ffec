//! `events`: resource use and out-of-memory kills as runc prints them, one JSON object a line.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use magik_oci::{ContainerState, Status};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::json;

use super::{args::EventsArgs, cgroup::Cgroups};
use crate::output;

/// Prints events until the container has ended; with `--stats`, one line.
pub(super) fn run(args: &EventsArgs, state: &ContainerState) -> Result<()> {
    let interval = duration(&args.interval)?;
    if !matches!(state.status, Status::Created | Status::Running | Status::Paused) {
        bail!("container {} is {}: it uses no resources", state.id, state.status);
    }
    let pid = state
        .pid
        .with_context(|| format!("container {} has no process", state.id))?;
    let cgroups = Cgroups::of(pid)?;
    let stats = || output::json_line(&json!({"type": "stats", "id": state.id, "data": cgroups.stats()}));
    if args.stats {
        return stats();
    }

    let pid = Pid::from_raw(pid).with_context(|| format!("container {} has no process", state.id))?;
    let ended = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("container {}", state.id))?;
    let mut oom = cgroups.oom_notice()?;
    let mut next = Instant::now() + interval;
    loop {
        let timeout =
            Timespec::try_from(next.saturating_duration_since(Instant::now())).context("--interval")?;
        let mut fds = [oom.poll_fd(), PollFd::new(&ended, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("poll"),
        }
        let over = !fds[1].revents().is_empty();
        // Also at the end: the kill and the end it brings may be seen in either order.
        if oom.take() {
            output::json_line(&json!({"type": "oom", "id": state.id}))?;
        }
        if over {
            return Ok(());
        }
        if Instant::now() >= next {
            stats()?;
            next += interval;
        }
    }
}

/// A duration as Go writes it: `5s`, `500ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let number: u32 = number
            .parse()
            .ok()
            .with_context(|| format!("--interval {text:?}: use a duration such as 5s"))?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => bail!("--interval {text:?}: use a duration such as 5s, with ms, s, m or h"),
        };
        total += unit.saturating_mul(number);
        rest = after;
    }
    if total.is_zero() {
        bail!("--interval {text:?}: must be more than nothing");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gos_durations() {
        for (text, ms) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "0s", "5", "s", "-1s", "5 s", "1.5s", "99999999999s"] {
            assert!(
                duration(text).unwrap_err().to_string().contains("--interval"),
                "{text}"
            );
        }
    }
}
