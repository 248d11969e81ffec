//! Why something was not started, and how that travels: with its kind, so that nobody reads it out of
//! a text.

use std::fmt;

use magik_oci::ExecFailure;
use protobuf::{EnumOrUnknown, Message as _};
use ttrpc::proto::Any;

use crate::{client::clean, error::LaunchStep, rpc::control as proto};

/// What the details of a status that hold one are called.
const TYPE_URL: &str = "magikrun.control.v1.CannotExecute";

/// A program that cannot be executed in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotExecute {
    /// `args[0]`.
    pub program: String,
    /// What kind of failure it is.
    pub failure: ExecFailure,
    /// Why not, for people.
    pub reason: String,
}

impl fmt::Display for CannotExecute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot execute {}: {}", self.program, self.reason)
    }
}

impl CannotExecute {
    pub(crate) fn of(error: &magik_oci::Error) -> Option<Self> {
        match error {
            magik_oci::Error::CannotExecute {
                program,
                failure,
                reason,
                ..
            } => Some(Self {
                program: program.clone(),
                failure: *failure,
                reason: reason.clone(),
            }),
            _ => None,
        }
    }

    /// From an init that says no more than that: an older one.
    pub(crate) fn untold(reason: &str) -> Self {
        Self {
            program: String::new(),
            failure: ExecFailure::Other,
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn to_message(&self) -> proto::CannotExecute {
        let failure = match self.failure {
            ExecFailure::NotFound => proto::ExecFailure::NOT_FOUND,
            ExecFailure::Denied => proto::ExecFailure::DENIED,
            ExecFailure::NotExecutable => proto::ExecFailure::NOT_EXECUTABLE,
            _ => proto::ExecFailure::OTHER,
        };
        proto::CannotExecute {
            program: self.program.clone(),
            failure: EnumOrUnknown::new(failure),
            reason: self.reason.clone(),
            ..proto::CannotExecute::default()
        }
    }

    pub(crate) fn from_message(message: &proto::CannotExecute) -> Self {
        let failure = match message.failure.enum_value() {
            Ok(proto::ExecFailure::NOT_FOUND) => ExecFailure::NotFound,
            Ok(proto::ExecFailure::DENIED) => ExecFailure::Denied,
            Ok(proto::ExecFailure::NOT_EXECUTABLE) => ExecFailure::NotExecutable,
            // Also a kind that a newer init knows and this program does not.
            Ok(proto::ExecFailure::OTHER) | Err(_) => ExecFailure::Other,
        };
        Self {
            program: clean(&message.program),
            failure,
            reason: clean(&message.reason),
        }
    }

    /// For the details of a status.
    pub(crate) fn to_detail(&self) -> Any {
        let mut detail = Any::new();
        TYPE_URL.clone_into(&mut detail.type_url);
        // Writing to memory fails for messages of 2 GiB only.
        detail.value = self.to_message().write_to_bytes().unwrap_or_default();
        detail
    }

    /// From the details of a status.
    pub(crate) fn from_details(details: &[Any]) -> Option<Self> {
        let detail = details.iter().find(|d| d.type_url == TYPE_URL)?;
        let message = proto::CannotExecute::parse_from_bytes(&detail.value).ok()?;
        Some(Self::from_message(&message))
    }
}

/// The steps of a pod's start, and what they are called on the wire.
const STEPS: [(LaunchStep, proto::LaunchStep); 16] = [
    (LaunchStep::Other, proto::LaunchStep::OTHER_STEP),
    (LaunchStep::Plan, proto::LaunchStep::PLAN),
    (LaunchStep::Boot, proto::LaunchStep::BOOT),
    (LaunchStep::ProcessNamespace, proto::LaunchStep::PROCESS_NAMESPACE),
    (LaunchStep::Mounts, proto::LaunchStep::MOUNTS),
    (LaunchStep::Confine, proto::LaunchStep::CONFINE),
    (LaunchStep::Create, proto::LaunchStep::CREATE),
    (LaunchStep::Start, proto::LaunchStep::START),
    (LaunchStep::InitContainer, proto::LaunchStep::INIT_CONTAINER),
    (LaunchStep::Extension, proto::LaunchStep::EXTENSION),
    (LaunchStep::Status, proto::LaunchStep::STATUS),
    (LaunchStep::Deadline, proto::LaunchStep::DEADLINE),
    (LaunchStep::Stopped, proto::LaunchStep::STOPPED),
    (LaunchStep::Delete, proto::LaunchStep::DELETE),
    (LaunchStep::PostStart, proto::LaunchStep::POST_START),
    (LaunchStep::StartupProbe, proto::LaunchStep::STARTUP_PROBE),
];

impl LaunchStep {
    pub(crate) fn to_message(self) -> EnumOrUnknown<proto::LaunchStep> {
        let found = STEPS.iter().find(|(step, _)| *step == self);
        EnumOrUnknown::new(found.map_or(proto::LaunchStep::OTHER_STEP, |(_, message)| *message))
    }

    pub(crate) fn from_message(message: EnumOrUnknown<proto::LaunchStep>) -> Self {
        let found = STEPS
            .iter()
            .find(|(_, step)| message == EnumOrUnknown::new(*step));
        found.map_or(Self::Other, |(step, _)| *step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_kind_survives_the_details_of_a_status() {
        for failure in [
            ExecFailure::NotFound,
            ExecFailure::Denied,
            ExecFailure::NotExecutable,
            ExecFailure::Other,
        ] {
            let why = CannotExecute {
                program: "/no/such".into(),
                failure,
                reason: "for people".into(),
            };
            assert_eq!(
                CannotExecute::from_details(&[Any::new(), why.to_detail()]),
                Some(why)
            );
        }
        assert_eq!(CannotExecute::from_details(&[Any::new()]), None);
    }

    #[test]
    fn a_step_is_read_as_it_was_written() {
        for (step, message) in STEPS {
            assert_eq!(step.to_message(), EnumOrUnknown::new(message));
            assert_eq!(LaunchStep::from_message(step.to_message()), step);
        }
        assert_eq!(
            LaunchStep::from_message(EnumOrUnknown::from_i32(999)),
            LaunchStep::Other
        );
    }
}
