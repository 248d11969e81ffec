//! The fields of claims of volumes, and of the volumes that they can name.

use k8s_openapi::api::core::v1 as k8s;

use super::{
    fields::{HOST_PATH, METADATA},
    schema::{
        Schema,
        Shape::{Flag, Object, Quantity, Text, Texts},
        known,
    },
};

const NO_SOURCE: &str = "a volume begins empty; fill it by an init container";
const NO_CLASSES: &str = "volumes are directories of the data root";
const ONE_HOST: &str = "there is one host";
const NO_LIMIT: &str = "is noted, and nothing limits how large a volume becomes";
const MOUNT_IT: &str = "mount it on the host, and use a hostPath";

/// `persistentVolumeClaim` of a pod's volume.
pub(super) static CLAIM: Schema = Schema {
    supported: &[("claimName", Text), ("readOnly", Flag)],
    required: &["claimName"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::PersistentVolumeClaimVolumeSource>,
};

/// `ephemeral` of a pod's volume.
pub(super) static EPHEMERAL: Schema = Schema {
    supported: &[("volumeClaimTemplate", Object(&TEMPLATE))],
    required: &["volumeClaimTemplate"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::EphemeralVolumeSource>,
};

static TEMPLATE: Schema = Schema {
    supported: &[("spec", Object(&TEMPLATE_SPEC))],
    required: &["spec"],
    ignored: &[("metadata", "the volume goes with the pod")],
    refused: &[],
    known: known::<k8s::PersistentVolumeClaimTemplate>,
};

static TEMPLATE_SPEC: Schema = Schema {
    supported: &[("volumeMode", Text)],
    required: &[],
    ignored: &[
        ("accessModes", ONE_HOST),
        ("resources", NO_LIMIT),
        ("selector", NO_CLASSES),
        ("storageClassName", NO_CLASSES),
        ("volumeAttributesClassName", NO_CLASSES),
    ],
    refused: &[
        ("dataSource", NO_SOURCE),
        ("dataSourceRef", NO_SOURCE),
        ("volumeName", "the volume is a new one; remove it"),
    ],
    known: known::<k8s::PersistentVolumeClaimSpec>,
};

/// A document `PersistentVolumeClaim`.
pub(super) static CLAIM_DOCUMENT: Schema = Schema {
    supported: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&CLAIM_SPEC)),
    ],
    required: &["metadata", "spec"],
    ignored: &[("status", "it is what a cluster reports")],
    refused: &[],
    known: || &["apiVersion", "kind", "metadata", "spec", "status"],
};

static CLAIM_SPEC: Schema = Schema {
    supported: &[
        ("accessModes", Texts),
        ("resources", Object(&CLAIM_RESOURCES)),
        ("volumeMode", Text),
        ("volumeName", Text),
    ],
    required: &[],
    ignored: &[
        ("selector", NO_CLASSES),
        ("storageClassName", NO_CLASSES),
        ("volumeAttributesClassName", NO_CLASSES),
    ],
    refused: &[("dataSource", NO_SOURCE), ("dataSourceRef", NO_SOURCE)],
    known: known::<k8s::PersistentVolumeClaimSpec>,
};

static CLAIM_RESOURCES: Schema = Schema {
    supported: &[("requests", Object(&CLAIM_REQUESTS))],
    required: &[],
    ignored: &[("limits", "nothing limits how large a volume becomes")],
    refused: &[],
    known: known::<k8s::VolumeResourceRequirements>,
};

static CLAIM_REQUESTS: Schema = Schema {
    supported: &[("storage", Quantity)],
    required: &[],
    ignored: &[],
    refused: &[],
    known: || &["storage"],
};

/// A document `PersistentVolume`.
pub(super) static VOLUME_DOCUMENT: Schema = Schema {
    supported: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&VOLUME_SPEC)),
    ],
    required: &["metadata", "spec"],
    ignored: &[("status", "it is what a cluster reports")],
    refused: &[],
    known: || &["apiVersion", "kind", "metadata", "spec", "status"],
};

static VOLUME_SPEC: Schema = Schema {
    supported: &[
        ("accessModes", Texts),
        ("hostPath", Object(&HOST_PATH)),
        ("volumeMode", Text),
    ],
    required: &["hostPath"],
    ignored: &[
        ("capacity", "nothing limits how large a volume becomes"),
        ("claimRef", "the claim names its volume"),
        ("nodeAffinity", ONE_HOST),
        ("persistentVolumeReclaimPolicy", "what is in a hostPath stays"),
        ("storageClassName", NO_CLASSES),
        ("volumeAttributesClassName", NO_CLASSES),
    ],
    refused: &[
        ("awsElasticBlockStore", MOUNT_IT),
        ("azureDisk", MOUNT_IT),
        ("azureFile", MOUNT_IT),
        ("cephfs", MOUNT_IT),
        ("cinder", MOUNT_IT),
        ("csi", MOUNT_IT),
        ("fc", MOUNT_IT),
        ("flexVolume", MOUNT_IT),
        ("flocker", MOUNT_IT),
        ("gcePersistentDisk", MOUNT_IT),
        ("glusterfs", MOUNT_IT),
        ("iscsi", MOUNT_IT),
        ("local", "use a hostPath"),
        ("mountOptions", MOUNT_IT),
        ("nfs", MOUNT_IT),
        ("photonPersistentDisk", MOUNT_IT),
        ("portworxVolume", MOUNT_IT),
        ("quobyte", MOUNT_IT),
        ("rbd", MOUNT_IT),
        ("scaleIO", MOUNT_IT),
        ("storageos", MOUNT_IT),
        ("vsphereVolume", MOUNT_IT),
    ],
    known: known::<k8s::PersistentVolumeSpec>,
};
