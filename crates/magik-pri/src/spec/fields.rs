//! The fields that are supported: every field of a manifest is either in here or an error.

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{self, DeserializeOwned};
use serde_json::Value;

use super::SpecError;

/// What a supported field holds.
enum Shape {
    /// A scalar, a list of scalars or a map of names: its type is checked when it is read.
    Value,
    /// An object.
    Object(&'static Schema),
    /// A list of objects.
    List(&'static Schema),
}
use Shape::{List, Object, Value as Plain};

/// An object's fields.
struct Schema {
    /// Those that are supported.
    supported: &'static [(&'static str, Shape)],
    /// Why some that are not are not.
    refused: &'static [(&'static str, &'static str)],
    /// All that Kubernetes has.
    known: fn() -> &'static [&'static str],
}

static POD: Schema = Schema {
    supported: &[
        ("apiVersion", Plain),
        ("kind", Plain),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&SPEC)),
    ],
    refused: &[("status", "it is what a cluster reports; remove it")],
    // Pod's own Deserialize reads apiVersion and kind apart from its fields.
    known: || &["apiVersion", "kind", "metadata", "spec", "status"],
};

static METADATA: Schema = Schema {
    supported: &[
        ("name", Plain),
        ("namespace", Plain),
        ("labels", Plain),
        ("annotations", Plain),
    ],
    refused: &[],
    known: known::<ObjectMeta>,
};

static SPEC: Schema = Schema {
    supported: &[
        ("activeDeadlineSeconds", Plain),
        ("containers", List(&CONTAINER)),
        ("hostAliases", List(&HOST_ALIAS)),
        ("hostNetwork", Plain),
        ("hostUsers", Plain),
        ("hostname", Plain),
        ("initContainers", List(&CONTAINER)),
        ("restartPolicy", Plain),
        ("runtimeClassName", Plain),
        ("securityContext", Object(&POD_SECURITY)),
        ("shareProcessNamespace", Plain),
        ("terminationGracePeriodSeconds", Plain),
        ("volumes", List(&VOLUME)),
    ],
    refused: &[],
    known: known::<k8s::PodSpec>,
};

static HOST_ALIAS: Schema = Schema {
    supported: &[("hostnames", Plain), ("ip", Plain)],
    refused: &[],
    known: known::<k8s::HostAlias>,
};

static CONTAINER: Schema = Schema {
    supported: &[
        ("args", Plain),
        ("command", Plain),
        ("env", List(&ENV)),
        ("image", Plain),
        ("imagePullPolicy", Plain),
        ("name", Plain),
        ("ports", List(&PORT)),
        ("resources", Object(&RESOURCES)),
        ("securityContext", Object(&SECURITY)),
        ("volumeMounts", List(&MOUNT)),
        ("workingDir", Plain),
    ],
    refused: &[],
    known: known::<k8s::Container>,
};

static ENV: Schema = Schema {
    supported: &[("name", Plain), ("value", Plain)],
    refused: &[("valueFrom", "give a value")],
    known: known::<k8s::EnvVar>,
};

static PORT: Schema = Schema {
    supported: &[
        ("containerPort", Plain),
        ("hostIP", Plain),
        ("hostPort", Plain),
        ("name", Plain),
        ("protocol", Plain),
    ],
    refused: &[],
    known: known::<k8s::ContainerPort>,
};

static RESOURCES: Schema = Schema {
    supported: &[("limits", Object(&AMOUNTS)), ("requests", Object(&AMOUNTS))],
    refused: &[],
    known: known::<k8s::ResourceRequirements>,
};

static AMOUNTS: Schema = Schema {
    supported: &[("cpu", Plain), ("memory", Plain)],
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
        ("runAsGroup", Plain),
        ("runAsNonRoot", Plain),
        ("runAsUser", Plain),
        ("seLinuxOptions", Object(&SE_LINUX)),
        ("seccompProfile", Object(&SECCOMP)),
        ("supplementalGroups", Plain),
        ("supplementalGroupsPolicy", Plain),
    ],
    refused: &[("windowsOptions", NO_WINDOWS)],
    known: known::<k8s::PodSecurityContext>,
};

static SECURITY: Schema = Schema {
    supported: &[
        ("allowPrivilegeEscalation", Plain),
        ("appArmorProfile", Object(&APP_ARMOR)),
        ("capabilities", Object(&CAPABILITIES)),
        ("privileged", Plain),
        ("procMount", Plain),
        ("readOnlyRootFilesystem", Plain),
        ("runAsGroup", Plain),
        ("runAsNonRoot", Plain),
        ("runAsUser", Plain),
        ("seLinuxOptions", Object(&SE_LINUX)),
        ("seccompProfile", Object(&SECCOMP)),
    ],
    refused: &[("windowsOptions", NO_WINDOWS)],
    known: known::<k8s::SecurityContext>,
};

const NO_WINDOWS: &str = "containers are Linux's";

static APP_ARMOR: Schema = Schema {
    supported: &[("localhostProfile", Plain), ("type", Plain)],
    refused: &[],
    known: known::<k8s::AppArmorProfile>,
};

static SECCOMP: Schema = Schema {
    supported: &[("localhostProfile", Plain), ("type", Plain)],
    refused: &[],
    known: known::<k8s::SeccompProfile>,
};

static SE_LINUX: Schema = Schema {
    supported: &[
        ("level", Plain),
        ("role", Plain),
        ("type", Plain),
        ("user", Plain),
    ],
    refused: &[],
    known: known::<k8s::SELinuxOptions>,
};

static CAPABILITIES: Schema = Schema {
    supported: &[("add", Plain), ("drop", Plain)],
    refused: &[],
    known: known::<k8s::Capabilities>,
};

static MOUNT: Schema = Schema {
    supported: &[("mountPath", Plain), ("name", Plain), ("readOnly", Plain)],
    // A container that writes to the volume can put a symlink in the path before the next one mounts it (CVE-2021-25741).
    refused: &[
        ("subPath", "mount the whole volume"),
        ("subPathExpr", "mount the whole volume"),
    ],
    known: known::<k8s::VolumeMount>,
};

static VOLUME: Schema = Schema {
    supported: &[
        ("emptyDir", Object(&EMPTY_DIR)),
        ("hostPath", Object(&HOST_PATH)),
        ("name", Plain),
    ],
    refused: &[],
    known: known::<k8s::Volume>,
};

static EMPTY_DIR: Schema = Schema {
    supported: &[("medium", Plain), ("sizeLimit", Plain)],
    refused: &[],
    known: known::<k8s::EmptyDirVolumeSource>,
};

static HOST_PATH: Schema = Schema {
    supported: &[("path", Plain), ("type", Plain)],
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
            let path = join(prefix, name);
            let shape = schema.supported.iter().find(|(field, _)| field == name);
            found.push(PodField {
                path: path.clone(),
                supported: shape.is_some(),
            });
            match shape {
                Some((_, Object(inner))) => visit(inner, &path, found),
                Some((_, List(inner))) => visit(inner, &format!("{path}[]"), found),
                Some((_, Plain)) | None => {}
            }
        }
    }
    let mut found = Vec::new();
    visit(&POD, "", &mut found);
    found
}

/// Checks that every field of the pod is supported. Null is absence, as in Kubernetes.
pub(super) fn check(pod: &Value) -> Result<(), SpecError> {
    walk(pod, &POD, "")
}

fn walk(value: &Value, schema: &'static Schema, path: &str) -> Result<(), SpecError> {
    let Value::Object(object) = value else {
        return Err(SpecError::invalid(path, "expected an object"));
    };
    for (key, value) in object {
        let path = join(path, key);
        match schema.supported.iter().find(|(name, _)| name == key) {
            Some((_, Plain)) => {}
            Some(_) if value.is_null() => {}
            Some((_, Object(schema))) => walk(value, schema, &path)?,
            Some((_, List(schema))) => {
                let Value::Array(items) = value else {
                    return Err(SpecError::invalid(path, "expected a list"));
                };
                for (i, item) in items.iter().enumerate() {
                    walk(item, schema, &format!("{path}[{i}]"))?;
                }
            }
            None => return unsupported(path, key, value, schema),
        }
    }
    Ok(())
}

fn unsupported(path: String, key: &str, value: &Value, schema: &Schema) -> Result<(), SpecError> {
    if let Some((_, why)) = schema.refused.iter().find(|(name, _)| *name == key) {
        return if value.is_null() {
            Ok(())
        } else {
            Err(SpecError::unsupported(path, *why))
        };
    }
    if (schema.known)().contains(&key) {
        return if value.is_null() {
            Ok(())
        } else {
            Err(SpecError::NotSupported { path, why: None })
        };
    }
    let near = schema.supported.iter().map(|(name, _)| {
        (
            strsim::jaro_winkler(&key.to_lowercase(), &name.to_lowercase()),
            *name,
        )
    });
    let suggestion = near
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    Err(SpecError::UnknownField {
        path,
        suggestion: suggestion.map(|(_, name)| name.to_owned()),
    })
}

/// `path.key`; the key is the manifest's, so it may be anything.
fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.len() <= 64
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let key = if plain {
        key.to_owned()
    } else {
        format!("{:?}", key.chars().take(64).collect::<String>())
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
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
