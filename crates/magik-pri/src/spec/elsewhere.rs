//! Objects that something else than a kubelet acts on: beside a pod they change nothing.

use serde_json::Value;

/// Why an object of this kind, with these labels, changes nothing; `None`: it is not known, or would change something.
///
/// What restricts pods (a `NetworkPolicy`, a `LimitRange`, a `ResourceQuota`, a `Namespace` with a level of Pod Security) is not here: who wrote it relies on it.
pub(super) fn why(api_version: &str, kind: &str, labels: &Value) -> Option<&'static str> {
    const ACCESS: &str = "there is no API server that it is about";
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Service") => Some("there are no services; pods are reached by their ports"),
        ("networking.k8s.io", "Ingress" | "IngressClass") => {
            Some("there are no services; pods are reached by their ports")
        }
        ("", "ServiceAccount")
        | ("rbac.authorization.k8s.io", "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding") => {
            Some(ACCESS)
        }
        ("", "Namespace") if !restricts(labels) => Some("namespaces need not be made"),
        ("policy", "PodDisruptionBudget") => Some("nothing moves pods to another host"),
        ("autoscaling", "HorizontalPodAutoscaler") => Some("nothing scales pods"),
        ("scheduling.k8s.io", "PriorityClass") => Some("a scheduler reads it, and there is one host"),
        ("storage.k8s.io", "StorageClass") => Some("volumes are directories of the host"),
        _ => None,
    }
}

/// Whether pods of a namespace with these labels must keep to a level of the Pod Security Standards.
fn restricts(labels: &Value) -> bool {
    let level = labels.get("pod-security.kubernetes.io/enforce");
    level.is_some_and(|level| level != "privileged")
}
