//! The fields that are supported: every field of a manifest is either in here or an error.

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{self, DeserializeOwned};

/// What a supported field holds.
pub(super) enum Shape {
    /// A string.
    Text,
    /// A list of strings.
    Texts,
    /// An object of strings.
    Names,
    /// A whole number.
    Whole,
    /// A list of whole numbers.
    Wholes,
    /// The number of a port.
    Port,
    /// A boolean.
    Flag,
    /// A number with or without a unit.
    Quantity,
    /// An object.
    Object(&'static Schema),
    /// A list of objects.
    List(&'static Schema),
}
use Shape::{Flag, List, Names, Object, Port, Quantity, Text, Texts, Whole, Wholes};

/// An object's fields.
pub(super) struct Schema {
    /// Those that are supported.
    pub(super) supported: &'static [(&'static str, Shape)],
    /// Those that must be there.
    pub(super) required: &'static [&'static str],
    /// Why some that are not supported are not, and what to do instead.
    pub(super) refused: &'static [(&'static str, &'static str)],
    /// All that Kubernetes has.
    pub(super) known: fn() -> &'static [&'static str],
}

pub(super) static POD: Schema = Schema {
    supported: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&SPEC)),
    ],
    required: &["metadata", "spec"],
    refused: &[("status", CLUSTER)],
    // Pod's own Deserialize reads apiVersion and kind apart from its fields.
    known: || &["apiVersion", "kind", "metadata", "spec", "status"],
};

static METADATA: Schema = Schema {
    supported: &[
        ("name", Text),
        ("namespace", Text),
        ("labels", Names),
        ("annotations", Names),
    ],
    required: &["name"],
    refused: &[
        ("creationTimestamp", CLUSTER),
        ("deletionGracePeriodSeconds", CLUSTER),
        ("deletionTimestamp", CLUSTER),
        ("generation", CLUSTER),
        ("managedFields", CLUSTER),
        ("resourceVersion", CLUSTER),
        ("selfLink", CLUSTER),
        ("uid", CLUSTER),
        ("generateName", "give a name"),
        ("finalizers", ALONE),
        ("ownerReferences", ALONE),
    ],
    known: known::<ObjectMeta>,
};

static SPEC: Schema = Schema {
    supported: &[
        ("activeDeadlineSeconds", Whole),
        ("containers", List(&CONTAINER)),
        ("hostAliases", List(&HOST_ALIAS)),
        ("hostNetwork", Flag),
        ("hostUsers", Flag),
        ("hostname", Text),
        ("initContainers", List(&CONTAINER)),
        ("restartPolicy", Text),
        ("runtimeClassName", Text),
        ("securityContext", Object(&POD_SECURITY)),
        ("shareProcessNamespace", Flag),
        ("terminationGracePeriodSeconds", Whole),
        ("volumes", List(&VOLUME)),
    ],
    required: &[],
    refused: &[
        ("affinity", ALONE),
        ("automountServiceAccountToken", ACCOUNT),
        ("dnsConfig", DNS),
        ("dnsPolicy", DNS),
        ("enableServiceLinks", ALONE),
        (
            "ephemeralContainers",
            "remove them; 'pod exec' runs a program in a container",
        ),
        ("hostIPC", "no pod gets the host's IPC namespace; remove it"),
        ("hostPID", "no pod sees the processes of the host; remove it"),
        (
            "imagePullSecrets",
            "remove it; 'podman login' or 'docker login' keeps credentials",
        ),
        ("nodeName", ALONE),
        ("nodeSelector", ALONE),
        ("overhead", ALONE),
        ("priority", ALONE),
        ("priorityClassName", ALONE),
        ("readinessGates", ALONE),
        ("schedulerName", ALONE),
        ("serviceAccount", ACCOUNT),
        ("serviceAccountName", ACCOUNT),
        ("setHostnameAsFQDN", "give a hostname"),
        ("subdomain", "give a hostname"),
        ("tolerations", ALONE),
        ("topologySpreadConstraints", ALONE),
    ],
    known: known::<k8s::PodSpec>,
};

static HOST_ALIAS: Schema = Schema {
    supported: &[("hostnames", Texts), ("ip", Text)],
    required: &["ip"],
    refused: &[],
    known: known::<k8s::HostAlias>,
};

static CONTAINER: Schema = Schema {
    supported: &[
        ("args", Texts),
        ("command", Texts),
        ("env", List(&ENV)),
        ("image", Text),
        ("imagePullPolicy", Text),
        ("name", Text),
        ("ports", List(&PORT)),
        ("resources", Object(&RESOURCES)),
        ("securityContext", Object(&SECURITY)),
        ("volumeMounts", List(&MOUNT)),
        ("workingDir", Text),
    ],
    required: &["name", "image"],
    refused: &[
        ("envFrom", "name each variable in env"),
        ("lifecycle", "remove it; an init container can prepare things"),
        ("livenessProbe", PROBE),
        ("readinessProbe", PROBE),
        ("restartPolicy", "remove it; containers are started once"),
        ("resizePolicy", "remove it; limits stay as they are"),
        ("startupProbe", PROBE),
        ("stdin", INPUT),
        ("stdinOnce", INPUT),
        (
            "terminationMessagePath",
            "remove it; 'pod logs' has what was written",
        ),
        (
            "terminationMessagePolicy",
            "remove it; 'pod logs' has what was written",
        ),
        ("tty", INPUT),
        ("volumeDevices", "use a hostPath volume of the type BlockDevice"),
    ],
    known: known::<k8s::Container>,
};

static ENV: Schema = Schema {
    supported: &[("name", Text), ("value", Text)],
    required: &["name"],
    refused: &[("valueFrom", "give a value")],
    known: known::<k8s::EnvVar>,
};

static PORT: Schema = Schema {
    supported: &[
        ("containerPort", Port),
        ("hostIP", Text),
        ("hostPort", Port),
        ("name", Text),
        ("protocol", Text),
    ],
    required: &["containerPort"],
    refused: &[],
    known: known::<k8s::ContainerPort>,
};

static RESOURCES: Schema = Schema {
    supported: &[("limits", Object(&AMOUNTS)), ("requests", Object(&AMOUNTS))],
    required: &[],
    refused: &[(
        "claims",
        "remove them; devices are hostPath volumes of the type CharDevice",
    )],
    known: known::<k8s::ResourceRequirements>,
};

static AMOUNTS: Schema = Schema {
    supported: &[("cpu", Quantity), ("memory", Quantity)],
    required: &[],
    refused: &[],
    // Any name is a resource in Kubernetes; these have a meaning there.
    known: || {
        &[
            "cpu",
            "memory",
            "ephemeral-storage",
            "hugepages-2Mi",
            "hugepages-1Gi",
        ]
    },
};

static POD_SECURITY: Schema = Schema {
    supported: &[
        ("appArmorProfile", Object(&APP_ARMOR)),
        ("runAsGroup", Whole),
        ("runAsNonRoot", Flag),
        ("runAsUser", Whole),
        ("seLinuxOptions", Object(&SE_LINUX)),
        ("seccompProfile", Object(&SECCOMP)),
        ("supplementalGroups", Wholes),
        ("supplementalGroupsPolicy", Text),
    ],
    required: &[],
    refused: &[
        ("windowsOptions", NO_WINDOWS),
        (
            "fsGroup",
            "make the volume's files belong to the user that runs, and remove it",
        ),
        ("fsGroupChangePolicy", "remove it"),
        ("sysctls", "remove them; containers have the kernel's defaults"),
    ],
    known: known::<k8s::PodSecurityContext>,
};

static SECURITY: Schema = Schema {
    supported: &[
        ("allowPrivilegeEscalation", Flag),
        ("appArmorProfile", Object(&APP_ARMOR)),
        ("capabilities", Object(&CAPABILITIES)),
        ("privileged", Flag),
        ("procMount", Text),
        ("readOnlyRootFilesystem", Flag),
        ("runAsGroup", Whole),
        ("runAsNonRoot", Flag),
        ("runAsUser", Whole),
        ("seLinuxOptions", Object(&SE_LINUX)),
        ("seccompProfile", Object(&SECCOMP)),
    ],
    required: &[],
    refused: &[("windowsOptions", NO_WINDOWS)],
    known: known::<k8s::SecurityContext>,
};

const CLUSTER: &str = "it is what a cluster reports; remove it";
const ALONE: &str = "there is one host and no cluster; remove it";
const ACCOUNT: &str = "there is no API server to have an account at; remove it";
const DNS: &str = "a pod has no network to the outside, or the host's; remove it";
const PROBE: &str = "remove it; nothing would act on it";
const INPUT: &str = "remove it; 'pod exec -it' gives a terminal";
const FILES: &str = "put the files in a directory, and use a hostPath";
const NO_WINDOWS: &str = "containers are Linux's; remove it";

static APP_ARMOR: Schema = Schema {
    supported: &[("localhostProfile", Text), ("type", Text)],
    required: &["type"],
    refused: &[],
    known: known::<k8s::AppArmorProfile>,
};

static SECCOMP: Schema = Schema {
    supported: &[("localhostProfile", Text), ("type", Text)],
    required: &["type"],
    refused: &[],
    known: known::<k8s::SeccompProfile>,
};

static SE_LINUX: Schema = Schema {
    supported: &[("level", Text), ("role", Text), ("type", Text), ("user", Text)],
    required: &[],
    refused: &[],
    known: known::<k8s::SELinuxOptions>,
};

static CAPABILITIES: Schema = Schema {
    supported: &[("add", Texts), ("drop", Texts)],
    required: &[],
    refused: &[],
    known: known::<k8s::Capabilities>,
};

static MOUNT: Schema = Schema {
    supported: &[("mountPath", Text), ("name", Text), ("readOnly", Flag)],
    required: &["name", "mountPath"],
    // A container that writes to the volume can put a symlink in the path before the next one
    // mounts it (CVE-2021-25741).
    refused: &[
        ("subPath", "mount the whole volume"),
        ("subPathExpr", "mount the whole volume"),
        ("mountPropagation", "remove it; it is None"),
    ],
    known: known::<k8s::VolumeMount>,
};

static VOLUME: Schema = Schema {
    supported: &[
        ("emptyDir", Object(&EMPTY_DIR)),
        ("hostPath", Object(&HOST_PATH)),
        ("name", Text),
    ],
    required: &["name"],
    refused: &[
        ("configMap", FILES),
        ("downwardAPI", FILES),
        (
            "persistentVolumeClaim",
            "use a hostPath of the type DirectoryOrCreate",
        ),
        ("projected", FILES),
        ("secret", FILES),
        ("nfs", "mount it on the host, and use a hostPath"),
        ("image", "mount it on the host, and use a hostPath"),
    ],
    known: known::<k8s::Volume>,
};

static EMPTY_DIR: Schema = Schema {
    supported: &[("medium", Text), ("sizeLimit", Quantity)],
    required: &[],
    refused: &[],
    known: known::<k8s::EmptyDirVolumeSource>,
};

static HOST_PATH: Schema = Schema {
    supported: &[("path", Text), ("type", Text)],
    required: &["path"],
    refused: &[],
    known: known::<k8s::HostPathVolumeSource>,
};

/// A field of a v1 Pod, for who documents or offers them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodField {
    /// Where it is, as `spec.containers[].image`.
    pub path: String,
    /// Whether a manifest may have it here; single values of it can be refused all the same.
    pub supported: bool,
}

/// All fields that Kubernetes has in a v1 Pod, but for what is in those that are not supported.
#[must_use]
pub fn pod_fields() -> Vec<PodField> {
    fn visit(schema: &'static Schema, prefix: &str, found: &mut Vec<PodField>) {
        for name in (schema.known)() {
            let dot = if prefix.is_empty() { "" } else { "." };
            let path = format!("{prefix}{dot}{name}");
            let shape = schema.supported.iter().find(|(field, _)| field == name);
            found.push(PodField {
                path: path.clone(),
                supported: shape.is_some(),
            });
            match shape {
                Some((_, Object(inner))) => visit(inner, &path, found),
                Some((_, List(inner))) => visit(inner, &format!("{path}[]"), found),
                Some(_) | None => {}
            }
        }
    }
    let mut found = Vec::new();
    visit(&POD, "", &mut found);
    found
}

/// The field names of a Kubernetes type, as its `Deserialize` gives them.
fn known<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Fields(Option<&'static [&'static str]>);
    impl<'de> de::Deserializer<'de> for &mut Fields {
        type Error = de::value::Error;
        fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only the names are wanted"))
        }
        fn deserialize_struct<V: de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            self.0 = Some(fields);
            self.deserialize_any(visitor)
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut fields = Fields(None);
    let _ = T::deserialize(&mut fields);
    fields.0.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_types_tell_their_fields() {
        assert!(known::<k8s::PodSpec>().contains(&"nodeSelector"));
        assert!(known::<k8s::EnvVar>().contains(&"valueFrom"));
        assert!(known::<ObjectMeta>().contains(&"ownerReferences"));
    }

    #[test]
    fn every_supported_field_is_one_of_kubernetes() {
        fn visit(schema: &'static Schema) {
            for (name, shape) in schema.supported {
                assert!((schema.known)().contains(name), "{name}");
                if let Object(inner) | List(inner) = shape {
                    visit(inner);
                }
            }
            assert!(
                schema
                    .refused
                    .iter()
                    .all(|(name, _)| (schema.known)().contains(name))
            );
        }
        visit(&POD);
    }
}
