//! What is done for a container while it lives, and when it has ended: restarts, probes, hooks.

use std::{net::IpAddr, time::Duration};

use magik_oci::Exit;
use serde::{Deserialize, Serialize};

/// What is done for a container besides being started once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifecycle {
    /// Whether it is run again when it has ended. An init container that always is, is a sidecar:
    /// the next one is started as soon as it has started.
    pub restart: RestartPolicy,
    /// What goes before the policy: the first rule that fits decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restart_rules: Vec<RestartRule>,
    /// Until it has succeeded once, there are no other probes; if it fails, the container ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Whether the container is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// If it fails, the container ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
    /// Done once its program runs; if it fails, the container ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_start: Option<Handler>,
    /// Done before it is asked to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Handler>,
    /// The number of the signal that asks it to end; absent: SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
}

impl Lifecycle {
    /// Whether there is nothing of it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a container that has ended so is run again.
    #[must_use]
    pub fn runs_again(&self, exit: &Exit) -> bool {
        let rule = self.restart_rules.iter().find(|rule| rule.fits(exit));
        rule.is_some()
            || match self.restart {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => exit.code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// Whether all containers of the pod are run again after that.
    #[must_use]
    pub fn restarts_all(&self, exit: &Exit) -> bool {
        let rule = self.restart_rules.iter().find(|rule| rule.fits(exit));
        rule.is_some_and(|rule| rule.all)
    }

    /// Of an init container: whether it is a sidecar, which runs as long as the pod.
    #[must_use]
    pub fn is_of_sidecar(&self) -> bool {
        self.restart == RestartPolicy::Always
    }

    /// The probes that there are.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        [&self.startup, &self.readiness, &self.liveness]
            .into_iter()
            .flatten()
    }

    /// What is done by probes and hooks.
    pub fn handlers(&self) -> impl Iterator<Item = &Handler> {
        let hooks = [&self.post_start, &self.pre_stop].into_iter().flatten();
        self.probes().map(|probe| &probe.handler).chain(hooks)
    }
}

/// Whether a container that has ended is run again (`restartPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It is not.
    #[default]
    Never,
    /// If it did not exit with 0.
    OnFailure,
    /// In any case.
    Always,
}

impl RestartPolicy {
    /// As Kubernetes calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::OnFailure => "OnFailure",
            Self::Always => "Always",
        }
    }
}

/// Exit codes after which a container is run again, whatever its policy (`restartPolicyRules`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartRule {
    /// The exit codes.
    pub codes: Vec<i32>,
    /// Whether it fits every code but these.
    #[serde(default)]
    pub but_these: bool,
    /// Whether all containers of the pod are run again, from the first init container on (the action
    /// `RestartAllContainers`).
    #[serde(default)]
    pub all: bool,
}

impl RestartRule {
    fn fits(&self, exit: &Exit) -> bool {
        self.codes.contains(&exit.code) != self.but_these
    }
}

/// How long a container waits before it is run again. The first time it does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackOff {
    /// The second time, in milliseconds; twice as long each further time.
    pub initial_ms: u64,
    /// At most, in milliseconds.
    pub max_ms: u64,
    /// A container that has run for so long begins anew, in milliseconds.
    pub reset_ms: u64,
}

impl BackOff {
    /// The kubelet's, but with another maximum, as its `maxContainerRestartPeriod` has it; less than
    /// a second is a second.
    #[must_use]
    pub fn at_most(max: Duration) -> Self {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX).max(1000);
        let usual = Self::default();
        Self {
            initial_ms: usual.initial_ms.min(max_ms),
            max_ms,
            ..usual
        }
    }

    /// The delay after this one.
    pub(crate) fn after(&self, delay: Option<Duration>) -> Duration {
        let next = delay.map_or(Duration::from_millis(self.initial_ms), |delay| {
            delay.saturating_mul(2)
        });
        next.min(Duration::from_millis(self.max_ms))
    }
}

impl Default for BackOff {
    /// The kubelet's: 10 s, doubling to 5 min, reset after 10 min.
    fn default() -> Self {
        Self {
            initial_ms: 10_000,
            max_ms: 300_000,
            reset_ms: 600_000,
        }
    }
}

/// A question that is asked of a container again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The question.
    pub handler: Handler,
    /// Seconds from the container's start to the first time.
    #[serde(default)]
    pub initial_delay_s: u64,
    /// Seconds from one time to the next; at least 1.
    pub period_s: u64,
    /// Seconds that an answer may take; at least 1.
    pub timeout_s: u64,
    /// How many good answers in a row make a failure good.
    pub success_threshold: u32,
    /// How many bad answers in a row are a failure.
    pub failure_threshold: u32,
    /// Seconds between SIGTERM and SIGKILL where its failure ends the container; absent: the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u64>,
}

/// What a probe or a hook does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Handler {
    /// Runs a program in the container: its exit code 0 is good.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// Asks by HTTP: a status from 200 to 399 is good.
    #[serde(rename_all = "camelCase")]
    HttpGet {
        /// Whom; absent: the pod.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<IpAddr>,
        /// The port.
        port: u16,
        /// What for: a path, and a query where there is one.
        path: String,
        /// Headers, in order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
        /// Whether by TLS, where any certificate will do (`scheme: HTTPS`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tls: bool,
    },
    /// Asks the pod by the [health checking protocol of gRPC](https://grpc.io/docs/guides/health-checking/):
    /// `SERVING` is good.
    #[serde(rename_all = "camelCase")]
    Grpc {
        /// The port.
        port: u16,
        /// Of which service; empty: of the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
        /// Whether by TLS, where any certificate will do (`mode: TLS`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tls: bool,
    },
    /// Connects by TCP: a connection is good.
    TcpSocket {
        /// Whom to; absent: the pod.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// Does nothing for so long, which is good.
    Sleep {
        /// Seconds.
        seconds: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_what_runs_again_and_a_rule_goes_before_it() {
        let says = |restart, code| {
            let lifecycle = Lifecycle {
                restart,
                restart_rules: vec![RestartRule {
                    codes: vec![42],
                    but_these: false,
                    all: false,
                }],
                ..Lifecycle::default()
            };
            lifecycle.runs_again(&Exit::exited(code))
        };
        for (policy, codes) in [
            (RestartPolicy::Never, [false, false, true]),
            (RestartPolicy::OnFailure, [false, true, true]),
            (RestartPolicy::Always, [true, true, true]),
        ] {
            assert_eq!([0, 1, 42].map(|code| says(policy, code)), codes, "{policy:?}");
        }
        let others = RestartRule {
            codes: vec![0, 3],
            but_these: true,
            all: false,
        };
        assert_eq!(
            [0, 3, 4].map(|code| others.fits(&Exit::exited(code))),
            [false, false, true]
        );
    }

    #[test]
    fn delays_double_up_to_their_maximum() {
        let back_off = BackOff::default();
        let mut delay = None;
        let delays: Vec<u64> = std::iter::repeat_with(|| {
            delay = Some(back_off.after(delay));
            delay.unwrap().as_secs()
        })
        .take(7)
        .collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let quick = BackOff::at_most(Duration::from_secs(1));
        assert_eq!(quick.after(None), Duration::from_secs(1));
        assert_eq!(quick.after(Some(Duration::from_secs(1))), Duration::from_secs(1));
    }
}
