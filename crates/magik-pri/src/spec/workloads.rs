//! Deployments, Jobs and the like: the pods that their controllers would make.
//!
//! There is no controller here. The pods of a workload are made once, from its template, and are
//! called `NAME-0`, `NAME-1` and so on; what else a workload says is a controller's.

use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core};
use serde_json::{Map, Value};

use super::{
    EnvValue, EnvVar, IgnoredField, PodSpec, SpecError, SpecErrors,
    check::At,
    errors::Problems,
    fields::METADATA,
    names,
    order::Order,
    parse::{self, NamedData, describe},
    schema::{
        Schema,
        Shape::{Object, Text, Whole},
        known,
    },
    walk,
};
use crate::limits::{MAX_DOCUMENTS, MAX_POD_NAME_LEN};

/// A kind of workload.
pub(super) struct Kind {
    version: &'static str,
    kind: &'static str,
    schema: &'static Schema,
}

/// The kinds of which pods are made.
static KINDS: [Kind; 6] = [
    Kind {
        version: "apps/v1",
        kind: "Deployment",
        schema: &DEPLOYMENT,
    },
    Kind {
        version: "apps/v1",
        kind: "DaemonSet",
        schema: &DAEMON_SET,
    },
    Kind {
        version: "apps/v1",
        kind: "StatefulSet",
        schema: &STATEFUL_SET,
    },
    Kind {
        version: "apps/v1",
        kind: "ReplicaSet",
        schema: &REPLICA_SET,
    },
    Kind {
        version: "v1",
        kind: "ReplicationController",
        schema: &REPLICATION_CONTROLLER,
    },
    Kind {
        version: "batch/v1",
        kind: "Job",
        schema: &JOB,
    },
];

impl Kind {
    /// The kind of workload that a document says it is.
    pub(super) fn of(version: &str, kind: &str) -> Option<&'static Self> {
        KINDS
            .iter()
            .find(|known| known.version == version && known.kind == kind)
    }

    /// As `kind` has it.
    pub(super) fn name(&self) -> &'static str {
        self.kind
    }
}

const CONTROLLER: &str = "a controller reads it, and there is none";

/// The schema of a workload, with the one of its `spec`. `template` and `selector` are looked at apart
/// from it.
macro_rules! workload {
    ($name:ident, $spec:ident, $type:ty, $supported:expr, $ignored:expr, $refused:expr) => {
        static $name: Schema = Schema {
            supported: &[
                ("apiVersion", Text),
                ("kind", Text),
                ("metadata", Object(&METADATA)),
                ("spec", Object(&$spec)),
            ],
            required: &["metadata", "spec"],
            ignored: &[("status", "it is what a cluster reports")],
            refused: &[],
            known: || &["apiVersion", "kind", "metadata", "spec", "status"],
        };
        static $spec: Schema = Schema {
            supported: $supported,
            required: &[],
            ignored: $ignored,
            refused: $refused,
            known: known::<$type>,
        };
    };
}

workload!(
    DEPLOYMENT,
    DEPLOYMENT_SPEC,
    apps::DeploymentSpec,
    &[("replicas", Whole)],
    &[
        ("minReadySeconds", CONTROLLER),
        ("paused", CONTROLLER),
        ("progressDeadlineSeconds", CONTROLLER),
        ("revisionHistoryLimit", CONTROLLER),
        ("strategy", CONTROLLER),
    ],
    &[]
);
workload!(
    DAEMON_SET,
    DAEMON_SET_SPEC,
    apps::DaemonSetSpec,
    &[],
    &[
        ("minReadySeconds", CONTROLLER),
        ("revisionHistoryLimit", CONTROLLER),
        ("updateStrategy", CONTROLLER),
    ],
    &[]
);
workload!(
    STATEFUL_SET,
    STATEFUL_SET_SPEC,
    apps::StatefulSetSpec,
    &[("replicas", Whole)],
    &[
        ("minReadySeconds", CONTROLLER),
        ("persistentVolumeClaimRetentionPolicy", CONTROLLER),
        ("podManagementPolicy", CONTROLLER),
        ("revisionHistoryLimit", CONTROLLER),
        ("serviceName", "there are no services"),
        ("updateStrategy", CONTROLLER),
    ],
    &[
        ("ordinals", "pods are numbered from 0; remove it"),
        (
            "volumeClaimTemplates",
            "use an emptyDir or a hostPath in the template",
        ),
    ]
);
workload!(
    REPLICA_SET,
    REPLICA_SET_SPEC,
    apps::ReplicaSetSpec,
    &[("replicas", Whole)],
    &[("minReadySeconds", CONTROLLER)],
    &[]
);
workload!(
    REPLICATION_CONTROLLER,
    REPLICATION_CONTROLLER_SPEC,
    core::ReplicationControllerSpec,
    &[("replicas", Whole)],
    &[("minReadySeconds", CONTROLLER)],
    &[]
);
workload!(
    JOB,
    JOB_SPEC,
    batch::JobSpec,
    &[
        ("activeDeadlineSeconds", Whole),
        ("completionMode", Text),
        ("completions", Whole),
        ("parallelism", Whole),
    ],
    &[
        ("backoffLimit", CONTROLLER),
        ("backoffLimitPerIndex", CONTROLLER),
        ("managedBy", CONTROLLER),
        ("manualSelector", CONTROLLER),
        ("maxFailedIndexes", CONTROLLER),
        ("podFailurePolicy", CONTROLLER),
        ("podReplacementPolicy", CONTROLLER),
        ("successPolicy", CONTROLLER),
        ("ttlSecondsAfterFinished", CONTROLLER),
    ],
    &[("suspend", "remove it; its pods are run at once")]
);

/// Where the index of a pod of a Job is (`completionMode: Indexed`).
const JOB_INDEX: &str = "batch.kubernetes.io/job-completion-index";
const JOB_INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The pods of a workload, and its own fields that change nothing.
pub(super) fn read(
    mut value: Value,
    kind: &Kind,
    order: impl Fn() -> Order,
    data: &NamedData,
) -> Result<(Vec<PodSpec>, Vec<IgnoredField>), SpecErrors> {
    let mut problems = Problems::default();
    let spec = value.get_mut("spec").and_then(Value::as_object_mut);
    let (template, selector) = spec.map_or((None, None), |spec| {
        (spec.remove("template"), spec.remove("selector"))
    });
    walk::object(&mut value, kind.schema, "", &mut problems);
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let name = text("/metadata/name").to_owned();
    let count = problems.ok(count(&value)).unwrap_or(1);
    let longest = format!("{name}-{}", count - 1);
    if !problems.covers("metadata.name") {
        let valid = names::dns_subdomain(&name, MAX_POD_NAME_LEN)
            .and_then(|()| names::dns_subdomain(&longest, MAX_POD_NAME_LEN));
        problems.or_default(valid.at("metadata.name"));
    }
    if template.is_none() && !problems.covers("spec") {
        problems.add(SpecError::invalid("spec.template", "is missing"));
    }
    if kind.kind == "Job" && template.as_ref().is_some_and(runs_for_ever) {
        let reason = "of a job it is OnFailure or Never: say which";
        problems.add(SpecError::invalid("spec.template.spec.restartPolicy", reason));
    }
    let deadline = value.pointer("/spec/activeDeadlineSeconds").cloned();
    let pod = template.map(|template| {
        let named = !problems.covers("metadata.name");
        let first = if named { format!("{name}-0") } else { "x".into() };
        let namespace = value.pointer("/metadata/namespace").cloned();
        pod(template, first, namespace, deadline)
    });
    let of_template = || order().field("spec").field("template").clone();
    let pod = pod.map(|pod| pod.and_then(|pod| parse::read(pod, of_template, data)));
    let pod = pod.map(|pod| pod.map_err(|errors| errors.within("spec.template.")));
    if let Some(Ok(pod)) = &pod {
        check_selector(selector.as_ref(), pod, &mut problems);
    }
    let own = problems.none_or(Some(()), &order);
    match (own, pod) {
        (Ok(((), mut ignored)), Some(Ok(pod))) => {
            ignored.extend(at_once(&value));
            let indexed = text("/spec/completionMode") == "Indexed";
            let pods = (0..count).map(|number| replica(&pod, kind, &name, number, indexed));
            Ok((pods.collect(), ignored))
        }
        (own, pod) => {
            let own = own.err();
            let of_pod = pod.and_then(Result::err);
            Err(SpecErrors::together(own.into_iter().chain(of_pod).collect()))
        }
    }
}

/// Namespace and name of each pod of a workload, without a look at what else it says; `None`: it has
/// no name.
pub(super) fn names_of(value: &Value) -> Option<Vec<String>> {
    let name = value.pointer("/metadata/name").and_then(Value::as_str)?;
    let count = count(value).unwrap_or(1);
    Some((0..count).map(|number| format!("{name}-{number}")).collect())
}

fn whole(value: &Value, field: &str) -> Option<i64> {
    value.get("spec")?.get(field)?.as_i64()
}

/// How many pods there are.
fn count(value: &Value) -> Result<usize, SpecError> {
    let fields = ["replicas", "completions", "parallelism"];
    let found = fields
        .iter()
        .find_map(|field| Some((*field, whole(value, field)?)));
    let Some((field, count)) = found else { return Ok(1) };
    match usize::try_from(count) {
        Ok(count) if (1..=MAX_DOCUMENTS).contains(&count) => Ok(count),
        _ => Err(SpecError::invalid(
            format!("spec.{field}"),
            format!("{count} is not between 1 and {MAX_DOCUMENTS}"),
        )),
    }
}

/// A Job whose pods are not all to run at a time is told that they do.
fn at_once(value: &Value) -> Option<IgnoredField> {
    let fewer = whole(value, "parallelism")? < whole(value, "completions")?;
    fewer.then(|| IgnoredField::new("spec.parallelism", "all pods of a job are run at once"))
}

/// Whether the containers of a template's pods are run again whenever they end.
fn runs_for_ever(template: &Value) -> bool {
    let policy = template.pointer("/spec/restartPolicy");
    template.get("spec").is_some_and(Value::is_object)
        && policy.is_none_or(|policy| policy.is_null() || policy == "Always")
}

/// The first pod of a template.
fn pod(
    template: Value,
    name: String,
    namespace: Option<Value>,
    deadline: Option<Value>,
) -> Result<Value, SpecErrors> {
    let Value::Object(mut template) = template else {
        let reason = format!("is {}, and an object is wanted", describe(&template));
        return Err(SpecError::invalid("", reason).into());
    };
    let mut metadata = template
        .remove("metadata")
        .filter(|metadata| !metadata.is_null())
        .unwrap_or_else(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = &mut metadata {
        metadata.insert("name".into(), name.into());
        metadata.remove("namespace");
        metadata.extend(namespace.map(|namespace| ("namespace".to_owned(), namespace)));
    }
    if let (Some(Value::Object(spec)), Some(deadline)) = (template.get_mut("spec"), deadline) {
        spec.entry("activeDeadlineSeconds").or_insert(deadline);
    }
    template.insert("apiVersion".into(), "v1".into());
    template.insert("kind".into(), "Pod".into());
    template.insert("metadata".into(), metadata);
    Ok(Value::Object(template))
}

/// As an API server does: a workload selects the pods of its template.
fn check_selector(selector: Option<&Value>, pod: &PodSpec, problems: &mut Problems) {
    let Some(Value::Object(selector)) = selector else {
        return;
    };
    // A ReplicationController has the labels themselves.
    let labels = match selector.get("matchLabels") {
        Some(Value::Object(labels)) => Some(("spec.selector.matchLabels", labels)),
        Some(_) => None,
        None => Some(("spec.selector", selector)),
    };
    if let Some((path, labels)) = labels {
        let others = labels
            .iter()
            .filter(|(key, value)| *key != "matchExpressions" && !value.is_null())
            .filter(|(key, value)| pod.labels.get(*key).map(String::as_str) != value.as_str());
        for (key, _) in others {
            let reason =
                "the pods of the template have no such label: add it to spec.template.metadata.labels";
            problems.add(SpecError::invalid(walk::join(path, key), reason));
        }
    }
}

/// A pod of the workload.
fn replica(pod: &PodSpec, kind: &Kind, workload: &str, number: usize, indexed: bool) -> PodSpec {
    let mut pod = pod.clone();
    pod.name = format!("{workload}-{number}");
    let mut label = |key: &str, value: &str| {
        pod.labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    };
    match kind.kind {
        "StatefulSet" => {
            let name = format!("{workload}-{number}");
            label("statefulset.kubernetes.io/pod-name", &name);
            label("apps.kubernetes.io/pod-index", &number.to_string());
        }
        "Job" if workload.len() <= 63 => {
            label("job-name", workload);
            label("batch.kubernetes.io/job-name", workload);
        }
        _ => {}
    }
    if indexed {
        let index = number.to_string();
        pod.annotations.insert(JOB_INDEX.to_owned(), index.clone());
        for container in pod.init_containers.iter_mut().chain(&mut pod.containers) {
            if container.env.iter().all(|known| known.name != JOB_INDEX_VARIABLE) {
                container.env.push(EnvVar {
                    name: JOB_INDEX_VARIABLE.to_owned(),
                    value: EnvValue::Text(index.clone()),
                });
            }
        }
    }
    pod
}
