//! The fields of what refers to data, and of data itself.

use k8s_openapi::api::core::v1 as k8s;

use super::{
    fields::METADATA,
    schema::{
        Schema,
        Shape::{Flag, List, Mode, Names, Object, Quantity, Secrets, Text},
        known,
    },
};

const TOKENS: &str = "there is no API server that gives tokens and certificates; remove it";

pub(super) static CONFIG_MAP: Schema = Schema {
    supported: &[
        ("apiVersion", Text),
        ("binaryData", Names),
        ("data", Names),
        ("immutable", Flag),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
    ],
    required: &["metadata"],
    ignored: &[],
    refused: &[],
    known: || {
        &[
            "apiVersion",
            "binaryData",
            "data",
            "immutable",
            "kind",
            "metadata",
        ]
    },
};

pub(super) static SECRET: Schema = Schema {
    supported: &[
        ("apiVersion", Text),
        ("data", Secrets),
        ("immutable", Flag),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("stringData", Secrets),
        ("type", Text),
    ],
    required: &["metadata"],
    ignored: &[],
    refused: &[],
    known: || {
        &[
            "apiVersion",
            "data",
            "immutable",
            "kind",
            "metadata",
            "stringData",
            "type",
        ]
    },
};

pub(super) static ENV_FROM: Schema = Schema {
    supported: &[
        ("configMapRef", Object(&OBJECT_REF)),
        ("prefix", Text),
        ("secretRef", Object(&OBJECT_REF)),
    ],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::EnvFromSource>,
};

static OBJECT_REF: Schema = Schema {
    supported: &[("name", Text), ("optional", Flag)],
    required: &["name"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ConfigMapEnvSource>,
};

pub(super) static VALUE_FROM: Schema = Schema {
    supported: &[
        ("configMapKeyRef", Object(&KEY_REF)),
        ("fieldRef", Object(&FIELD_REF)),
        ("resourceFieldRef", Object(&RESOURCE_REF)),
        ("secretKeyRef", Object(&KEY_REF)),
    ],
    required: &[],
    ignored: &[],
    refused: &[(
        "fileKeyRef",
        "put the value into a ConfigMap, and use configMapKeyRef",
    )],
    // With those of later versions.
    known: || {
        &[
            "configMapKeyRef",
            "fieldRef",
            "fileKeyRef",
            "resourceFieldRef",
            "secretKeyRef",
        ]
    },
};

static KEY_REF: Schema = Schema {
    supported: &[("key", Text), ("name", Text), ("optional", Flag)],
    required: &["name", "key"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ConfigMapKeySelector>,
};

static FIELD_REF: Schema = Schema {
    supported: &[("apiVersion", Text), ("fieldPath", Text)],
    required: &["fieldPath"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ObjectFieldSelector>,
};

static RESOURCE_REF: Schema = Schema {
    supported: &[("containerName", Text), ("divisor", Quantity), ("resource", Text)],
    required: &["resource"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ResourceFieldSelector>,
};

const OWNER: &str = "files are root's, and of the fsGroup; remove it";

pub(super) static CONFIG_MAP_VOLUME: Schema = Schema {
    supported: &[
        ("defaultMode", Mode),
        ("items", List(&ITEM)),
        ("name", Text),
        ("optional", Flag),
    ],
    required: &["name"],
    ignored: &[],
    refused: &[("defaultUser", OWNER)],
    known: known::<k8s::ConfigMapVolumeSource>,
};

pub(super) static SECRET_VOLUME: Schema = Schema {
    supported: &[
        ("defaultMode", Mode),
        ("items", List(&ITEM)),
        ("optional", Flag),
        ("secretName", Text),
    ],
    required: &["secretName"],
    ignored: &[],
    refused: &[("defaultUser", OWNER)],
    known: known::<k8s::SecretVolumeSource>,
};

static ITEM: Schema = Schema {
    supported: &[("key", Text), ("mode", Mode), ("path", Text)],
    required: &["key", "path"],
    ignored: &[],
    refused: &[("user", OWNER)],
    known: known::<k8s::KeyToPath>,
};

pub(super) static DOWNWARD_VOLUME: Schema = Schema {
    supported: &[("defaultMode", Mode), ("items", List(&DOWNWARD_ITEM))],
    required: &[],
    ignored: &[],
    refused: &[("defaultUser", OWNER)],
    known: known::<k8s::DownwardAPIVolumeSource>,
};

static DOWNWARD_ITEM: Schema = Schema {
    supported: &[
        ("fieldRef", Object(&FIELD_REF)),
        ("mode", Mode),
        ("path", Text),
        ("resourceFieldRef", Object(&RESOURCE_REF)),
    ],
    required: &["path"],
    ignored: &[],
    refused: &[("user", OWNER)],
    known: known::<k8s::DownwardAPIVolumeFile>,
};

pub(super) static PROJECTED_VOLUME: Schema = Schema {
    supported: &[("defaultMode", Mode), ("sources", List(&PROJECTION))],
    required: &[],
    ignored: &[],
    refused: &[("defaultUser", OWNER)],
    known: known::<k8s::ProjectedVolumeSource>,
};

static PROJECTION: Schema = Schema {
    supported: &[
        ("configMap", Object(&OBJECT_PROJECTION)),
        ("downwardAPI", Object(&DOWNWARD_PROJECTION)),
        ("secret", Object(&OBJECT_PROJECTION)),
    ],
    required: &[],
    ignored: &[],
    refused: &[
        ("clusterTrustBundle", TOKENS),
        ("podCertificate", TOKENS),
        ("serviceAccountToken", TOKENS),
    ],
    // With those of later versions.
    known: || {
        &[
            "clusterTrustBundle",
            "configMap",
            "downwardAPI",
            "podCertificate",
            "secret",
            "serviceAccountToken",
        ]
    },
};

static OBJECT_PROJECTION: Schema = Schema {
    supported: &[("items", List(&ITEM)), ("name", Text), ("optional", Flag)],
    required: &["name"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ConfigMapProjection>,
};

static DOWNWARD_PROJECTION: Schema = Schema {
    supported: &[("items", List(&DOWNWARD_ITEM))],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::DownwardAPIProjection>,
};
