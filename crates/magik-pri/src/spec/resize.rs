//! What a container does when it is given other resources.

use k8s_openapi::api::core::v1 as k8s;
use serde::{Deserialize, Serialize};

use super::{SpecError, check::At, errors::Problems};

/// Which resources a container is run again for when it is given others (`resizePolicy` with
/// `RestartContainer`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResizeRestarts {
    /// `cpu`.
    pub cpu: bool,
    /// `memory`.
    pub memory: bool,
}

/// Reads `resizePolicy` of a container. `never`: its pod runs none again.
pub(super) fn resize_policy(
    policies: Vec<k8s::ContainerResizePolicy>,
    never: bool,
    path: &str,
    problems: &mut Problems,
) -> ResizeRestarts {
    let mut restarts = ResizeRestarts::default();
    let mut seen = Vec::new();
    for (i, policy) in policies.into_iter().enumerate() {
        let again = match policy.restart_policy.as_str() {
            "NotRequired" => Ok(false),
            "RestartContainer" if never => {
                Err("is RestartContainer, and the pod's restartPolicy is Never: use NotRequired".to_owned())
            }
            "RestartContainer" => Ok(true),
            other => Err(format!("{other:?} is none of NotRequired, RestartContainer")),
        };
        let again = problems.or_default(again.at(&format!("{path}[{i}].restartPolicy")));
        let path = format!("{path}[{i}].resourceName");
        match policy.resource_name.as_str() {
            name if seen.iter().any(|other| other == name) => {
                problems.add(SpecError::invalid(
                    path,
                    format!("{name} is there twice: remove one"),
                ));
            }
            "cpu" => restarts.cpu = again,
            "memory" => restarts.memory = again,
            other => problems.add(SpecError::invalid(
                path,
                format!("{other:?} is none of cpu, memory"),
            )),
        }
        seen.push(policy.resource_name);
    }
    restarts
}
