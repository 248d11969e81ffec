//! How containers end.

use std::{io, time::Duration};

use magik_oci::{Exit, ExitReason};
use tokio::sync::oneshot;
use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::{control::Verdict, error::one_line, host::ProgramSetup, limiter::LimitReached};

/// The exit code of a program that trapped: that of an aborted process.
const SIGABRT: i32 = 6;
pub(crate) const SIGKILL: i32 = 9;

/// How a container ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// One line, where the program did not end of itself.
    pub(crate) message: Option<String>,
}

impl Ended {
    pub(crate) fn exited(code: i32) -> Self {
        Self {
            exit: Exit::exited(code),
            message: None,
        }
    }

    /// It could not be started, which `started` is told.
    pub(crate) fn before_start(error: &io::Error, started: oneshot::Sender<Result<(), String>>) -> Self {
        let message = error.to_string();
        let ended = Self::trapped(ExitReason::Trap, &message);
        let _ = started.send(Err(message));
        ended
    }

    /// The runtime ended it: a trap is an abort, a limit a kill.
    pub(crate) fn trapped(reason: ExitReason, message: &str) -> Self {
        let signal = match reason {
            ExitReason::Trap | ExitReason::StackOverflow => SIGABRT,
            _ => SIGKILL,
        };
        Self {
            exit: Exit {
                oom_killed: reason == ExitReason::MemoryLimit,
                reason: Some(reason),
                ..Exit::signalled(signal)
            },
            message: Some(format!("{reason}: {message}")),
        }
    }

    pub(crate) fn by_verdict(verdict: Verdict, deadline: Option<Duration>) -> Self {
        match verdict {
            Verdict::Killed(signal) => Self {
                exit: Exit::signalled(signal),
                message: None,
            },
            Verdict::Deadline => Self::trapped(
                ExitReason::DeadlineExceeded,
                &format!("it ran longer than {} s", deadline.unwrap_or_default().as_secs()),
            ),
        }
    }

    /// How its program came back.
    pub(crate) fn new(
        result: Result<wasmtime::Result<i32>, Verdict>,
        setup: &ProgramSetup,
        deadline: Option<Duration>,
    ) -> Self {
        match result {
            Err(verdict) => Self::by_verdict(verdict, deadline),
            Ok(Ok(code)) => Self::exited(code),
            Ok(Err(error)) => match error.downcast_ref::<I32Exit>() {
                // As a process's: what a parent sees of it is its lowest byte.
                Some(I32Exit(code)) => Self::exited(code & 0xff),
                None => {
                    let (reason, message) = explain(&error, setup.fuel);
                    Self::trapped(reason, &message)
                }
            },
        }
    }
}

/// Why a program was trapped, in one line.
pub(crate) fn explain(error: &wasmtime::Error, fuel: Option<u64>) -> (ExitReason, String) {
    if let Some(limit) = error.downcast_ref::<LimitReached>() {
        return (limit.reason, limit.to_string());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => (
            ExitReason::FuelExhausted,
            format!(
                "it used up its {} units of fuel; the annotation {} gives more, or none of it at all (off)",
                fuel.unwrap_or_default(),
                crate::annotations::FUEL
            ),
        ),
        Some(Trap::StackOverflow) => (
            ExitReason::StackOverflow,
            format!(
                "its calls nested deeper than {} bytes",
                crate::limits::MAX_WASM_STACK
            ),
        ),
        Some(trap) => (ExitReason::Trap, trap.to_string()),
        None => {
            let text = one_line(error);
            let reason = if text.contains("resource limit exceeded") {
                ExitReason::InstanceLimit
            } else {
                ExitReason::Trap
            };
            (reason, text)
        }
    }
}
