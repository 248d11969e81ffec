//! Container state, exit and signals.

use std::{collections::HashMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ContainerId;

/// The life-cycle states of the runtime-spec, plus `paused`, which runc added and callers expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is under way.
    Creating,
    /// The container exists; its program has not been started.
    Created,
    /// The program runs.
    Running,
    /// The program is frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A container's state (runtime-spec 1.2, "State"), serialised as `state` prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// The version of the runtime-spec this state follows.
    pub oci_version: String,
    /// The container.
    pub id: ContainerId,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process, as the host's pid; absent when stopped or without a process (WASM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The annotations of the bundle's configuration.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
    /// When it was created, RFC 3339; runc's `list` shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

impl ContainerState {
    /// That of a container of which no more is known.
    #[must_use]
    pub fn new(id: ContainerId, status: Status) -> Self {
        Self {
            oci_version: String::new(),
            id,
            status,
            pid: None,
            bundle: PathBuf::new(),
            annotations: HashMap::new(),
            created: None,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel's OOM killer, or the runtime's memory limit, ended it.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why the runtime ended it, where the runtime did (WASM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExitReason>,
}

/// Why a runtime ended a program: the limit it met, or what it did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitReason {
    /// It used up its fuel.
    FuelExhausted,
    /// It ran longer than its wall-clock limit.
    DeadlineExceeded,
    /// It asked for more memory than its limit.
    MemoryLimit,
    /// It asked for more table elements than its limit.
    TableLimit,
    /// It asked for more instances, memories or tables than its limit.
    InstanceLimit,
    /// Its calls nested deeper than its stack.
    StackOverflow,
    /// It trapped: an unreachable instruction, an access out of bounds, a division by zero, …
    Trap,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names are also what serde writes.
        fmt::Debug::fmt(self, f)
    }
}

impl Exit {
    /// It returned `code`.
    #[must_use]
    pub const fn exited(code: i32) -> Self {
        Self {
            code,
            signal: None,
            oom_killed: false,
            reason: None,
        }
    }

    /// Signal `n` ended it.
    #[must_use]
    pub const fn signalled(n: i32) -> Self {
        Self {
            code: 128 + n,
            signal: Some(n),
            oom_killed: false,
            reason: None,
        }
    }
}

/// A signal number, read from `9`, `KILL` or `SIGKILL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(pub i32);

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}: use a number from 1 to 64 or a name such as TERM")]
pub struct UnknownSignal(pub String);

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);
}

/// Linux names in numeric order, from 1; the same on x86-64 and arm64.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(s: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(s.to_owned());
        if let Ok(n) = s.parse::<i32>() {
            return if (1..=64).contains(&n) {
                Ok(Self(n))
            } else {
                Err(unknown())
            };
        }
        let upper = s.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let by_name = NAMES
            .iter()
            .position(|n| *n == name)
            .and_then(|i| i32::try_from(i + 1).ok());
        // RTMIN is 34 for programs on glibc and musl: the two below are the C library's own.
        let real_time = || match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => Some(34),
            (Some(offset), _) => offset
                .strip_prefix('+')?
                .parse::<i32>()
                .ok()
                .filter(|o| (0..=30).contains(o))
                .map(|o| 34 + o),
            (_, Some("")) => Some(64),
            (_, Some(offset)) => offset
                .strip_prefix('-')?
                .parse::<i32>()
                .ok()
                .filter(|o| (0..=30).contains(o))
                .map(|o| 64 - o),
            _ => None,
        };
        let alias = match name {
            "POLL" => Some(29),
            "CLD" => Some(17),
            "IOT" => Some(6),
            _ => None,
        };
        by_name.or(alias).or_else(real_time).map(Self).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_signals_as_runc_does() {
        for (text, n) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SYS", 31),
            ("64", 64),
        ] {
            assert_eq!(text.parse::<Signal>(), Ok(Signal(n)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for text in ["", "0", "65", "-9", "SIG", "NOSUCH", "RTMIN+31", "RTMAX-99"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn state_serialises_as_the_spec_names_its_fields() {
        let state = ContainerState {
            oci_version: "1.2.0".into(),
            id: "a".parse().unwrap(),
            status: Status::Running,
            pid: Some(7),
            bundle: "/b".into(),
            annotations: HashMap::new(),
            created: None,
        };
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"ociVersion": "1.2.0", "id": "a", "status": "running", "pid": 7, "bundle": "/b", "annotations": {}})
        );
    }
}
