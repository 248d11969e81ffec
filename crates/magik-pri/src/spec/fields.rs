//! The fields of a v1 Pod, each in one of three kinds: honoured, ignored (with a notice), refused.

mod lifecycle;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::lifecycle::{LIFECYCLE, PROBE, RESTART_RULE};
use super::{
    claim_fields as claims, data_fields as data,
    schema::{
        Schema,
        Shape::{Flag, List, Names, Object, Port, Quantity, Text, Texts, Whole, Wholes},
        known,
    },
};

pub(super) static POD: Schema = Schema {
    supported: &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Object(&METADATA)),
        ("spec", Object(&SPEC)),
    ],
    required: &["metadata", "spec"],
    ignored: &[("status", CLUSTER)],
    refused: &[],
    // Pod's own Deserialize reads apiVersion and kind apart from its fields.
    known: || &["apiVersion", "kind", "metadata", "spec", "status"],
};

pub(super) static METADATA: Schema = Schema {
    supported: &[
        ("name", Text),
        ("namespace", Text),
        ("labels", Names),
        ("annotations", Names),
    ],
    required: &["name"],
    ignored: &[
        ("creationTimestamp", CLUSTER),
        ("deletionGracePeriodSeconds", CLUSTER),
        ("deletionTimestamp", CLUSTER),
        ("finalizers", NO_API_SERVER),
        ("generation", CLUSTER),
        ("managedFields", CLUSTER),
        ("ownerReferences", NO_API_SERVER),
        ("resourceVersion", CLUSTER),
        ("selfLink", CLUSTER),
        ("uid", CLUSTER),
    ],
    refused: &[("generateName", "give a name")],
    known: known::<ObjectMeta>,
};

static SPEC: Schema = Schema {
    supported: &[
        ("activeDeadlineSeconds", Whole),
        ("containers", List(&CONTAINER)),
        ("dnsConfig", Object(&DNS_CONFIG)),
        ("dnsPolicy", Text),
        ("hostAliases", List(&HOST_ALIAS)),
        ("hostIPC", Flag),
        ("hostNetwork", Flag),
        ("hostPID", Flag),
        ("hostUsers", Flag),
        ("hostname", Text),
        ("hostnameOverride", Text),
        ("imagePullSecrets", List(&PULL_SECRET)),
        ("initContainers", List(&CONTAINER)),
        ("os", Object(&OS)),
        ("resources", Object(&POD_RESOURCES)),
        ("restartPolicy", Text),
        ("runtimeClassName", Text),
        ("securityContext", Object(&POD_SECURITY)),
        ("setHostnameAsFQDN", Flag),
        ("shareProcessNamespace", Flag),
        ("subdomain", Text),
        ("terminationGracePeriodSeconds", Whole),
        ("volumes", List(&VOLUME)),
    ],
    required: &[],
    ignored: &[
        ("evictionResponders", NO_API_SERVER),
        ("schedulingGroup", SCHEDULER),
        ("affinity", SCHEDULER),
        ("automountServiceAccountToken", NO_API_SERVER),
        ("enableServiceLinks", "there are no services"),
        ("nodeName", SCHEDULER),
        ("nodeSelector", SCHEDULER),
        ("overhead", SCHEDULER),
        ("preemptionPolicy", SCHEDULER),
        ("priority", SCHEDULER),
        ("priorityClassName", SCHEDULER),
        ("readinessGates", NO_API_SERVER),
        ("schedulerName", SCHEDULER),
        ("schedulingGates", SCHEDULER),
        ("serviceAccount", NO_API_SERVER),
        ("serviceAccountName", NO_API_SERVER),
        ("tolerations", SCHEDULER),
        ("topologySpreadConstraints", SCHEDULER),
    ],
    refused: &[
        (
            "ephemeralContainers",
            "remove them: a pod is created without; 'magikrun pod debug' adds one to a pod that runs",
        ),
        ("resourceClaims", CLAIMS),
    ],
    known: known::<k8s::PodSpec>,
};

static PULL_SECRET: Schema = Schema {
    supported: &[("name", Text)],
    required: &["name"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::LocalObjectReference>,
};

static OS: Schema = Schema {
    supported: &[("name", Text)],
    required: &["name"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::PodOS>,
};

static DNS_CONFIG: Schema = Schema {
    supported: &[
        ("nameservers", Texts),
        ("options", List(&DNS_OPTION)),
        ("searches", Texts),
    ],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::PodDNSConfig>,
};

static DNS_OPTION: Schema = Schema {
    supported: &[("name", Text), ("value", Text)],
    required: &["name"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::PodDNSConfigOption>,
};

static SYSCTL: Schema = Schema {
    supported: &[("name", Text), ("value", Text)],
    required: &["name", "value"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::Sysctl>,
};

static HOST_ALIAS: Schema = Schema {
    supported: &[("hostnames", Texts), ("ip", Text)],
    required: &["ip"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::HostAlias>,
};

static CONTAINER: Schema = Schema {
    supported: &[
        ("args", Texts),
        ("command", Texts),
        ("env", List(&ENV)),
        ("envFrom", List(&data::ENV_FROM)),
        ("image", Text),
        ("imagePullPolicy", Text),
        ("lifecycle", Object(&LIFECYCLE)),
        ("livenessProbe", Object(&PROBE)),
        ("name", Text),
        ("ports", List(&PORT)),
        ("readinessProbe", Object(&PROBE)),
        ("resizePolicy", List(&RESIZE_POLICY)),
        ("resources", Object(&RESOURCES)),
        ("restartPolicy", Text),
        ("restartPolicyRules", List(&RESTART_RULE)),
        ("securityContext", Object(&SECURITY)),
        ("startupProbe", Object(&PROBE)),
        ("stdin", Flag),
        ("stdinOnce", Flag),
        ("terminationMessagePath", Text),
        ("terminationMessagePolicy", Text),
        ("tty", Flag),
        ("volumeMounts", List(&MOUNT)),
        ("workingDir", Text),
    ],
    required: &["name", "image"],
    ignored: &[],
    refused: &[("volumeDevices", "use a hostPath volume of the type BlockDevice")],
    known: known::<k8s::Container>,
};

static RESIZE_POLICY: Schema = Schema {
    supported: &[("resourceName", Text), ("restartPolicy", Text)],
    required: &["resourceName", "restartPolicy"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ContainerResizePolicy>,
};

static ENV: Schema = Schema {
    supported: &[
        ("name", Text),
        ("value", Text),
        ("valueFrom", Object(&data::VALUE_FROM)),
    ],
    required: &["name"],
    ignored: &[],
    refused: &[],
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
    ignored: &[],
    refused: &[],
    known: known::<k8s::ContainerPort>,
};

static RESOURCES: Schema = Schema {
    supported: &[("limits", Object(&AMOUNTS)), ("requests", Object(&AMOUNTS))],
    required: &[],
    ignored: &[],
    refused: &[("claims", CLAIMS)],
    known: known::<k8s::ResourceRequirements>,
};

static POD_RESOURCES: Schema = Schema {
    supported: &[
        ("limits", Object(&POD_AMOUNTS)),
        ("requests", Object(&POD_AMOUNTS)),
    ],
    required: &[],
    ignored: &[],
    refused: &[("claims", CLAIMS)],
    known: known::<k8s::ResourceRequirements>,
};

/// As Kubernetes has it, the others are a container's.
static POD_AMOUNTS: Schema = Schema {
    supported: &[("cpu", Quantity), ("memory", Quantity)],
    required: &[],
    ignored: &[],
    refused: &[
        ("ephemeral-storage", "give each container its own"),
        ("hugepages-1Gi", "give each container its own"),
        ("hugepages-2Mi", "give each container its own"),
    ],
    known: AMOUNTS.known,
};

/// Whether its fields are resources, of which anybody may have more, called `example.com/name`.
pub(super) fn is_of_amounts(schema: &'static Schema) -> bool {
    [&AMOUNTS, &POD_AMOUNTS]
        .into_iter()
        .any(|amounts| std::ptr::eq(amounts, schema))
}

static AMOUNTS: Schema = Schema {
    supported: &[
        ("cpu", Quantity),
        ("ephemeral-storage", Quantity),
        ("hugepages-1Gi", Quantity),
        ("hugepages-2Mi", Quantity),
        ("memory", Quantity),
    ],
    required: &[],
    ignored: &[],
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
        ("fsGroup", Whole),
        ("fsGroupChangePolicy", Text),
        ("runAsGroup", Whole),
        ("runAsNonRoot", Flag),
        ("runAsUser", Whole),
        ("seLinuxOptions", Object(&SE_LINUX)),
        ("seccompProfile", Object(&SECCOMP)),
        ("supplementalGroups", Wholes),
        ("supplementalGroupsPolicy", Text),
        ("sysctls", List(&SYSCTL)),
    ],
    required: &[],
    ignored: &[],
    refused: &[
        ("windowsOptions", NO_WINDOWS),
        ("seLinuxChangePolicy", "remove it; volumes keep their labels"),
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
    ignored: &[],
    refused: &[("windowsOptions", NO_WINDOWS)],
    known: known::<k8s::SecurityContext>,
};

const CLUSTER: &str = "it is what a cluster reports";
const SCHEDULER: &str = "a scheduler reads it, and there is one host";
const NO_API_SERVER: &str = "there is no API server";
const FILES: &str = "put the files in a directory, and use a hostPath";
const MOUNT_IT: &str = "mount it on the host, and use a hostPath";
const CLAIMS: &str = "remove them; devices are hostPath volumes of the type CharDevice";
const NO_WINDOWS: &str = "containers are Linux's; remove it";

static APP_ARMOR: Schema = Schema {
    supported: &[("localhostProfile", Text), ("type", Text)],
    required: &["type"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::AppArmorProfile>,
};

static SECCOMP: Schema = Schema {
    supported: &[("localhostProfile", Text), ("type", Text)],
    required: &["type"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::SeccompProfile>,
};

static SE_LINUX: Schema = Schema {
    supported: &[("level", Text), ("role", Text), ("type", Text), ("user", Text)],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::SELinuxOptions>,
};

static CAPABILITIES: Schema = Schema {
    supported: &[("add", Texts), ("drop", Texts)],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::Capabilities>,
};

static MOUNT: Schema = Schema {
    supported: &[
        ("mountPath", Text),
        ("mountPropagation", Text),
        ("name", Text),
        ("readOnly", Flag),
        ("recursiveReadOnly", Text),
        ("subPath", Text),
        ("subPathExpr", Text),
    ],
    required: &["name", "mountPath"],
    ignored: &[],
    refused: &[("bindMountOptions", "remove them; volumes have the usual ones")],
    known: known::<k8s::VolumeMount>,
};

static VOLUME: Schema = Schema {
    supported: &[
        ("configMap", Object(&data::CONFIG_MAP_VOLUME)),
        ("downwardAPI", Object(&data::DOWNWARD_VOLUME)),
        ("emptyDir", Object(&EMPTY_DIR)),
        ("ephemeral", Object(&claims::EPHEMERAL)),
        ("hostPath", Object(&HOST_PATH)),
        ("image", Object(&IMAGE_VOLUME)),
        ("name", Text),
        ("persistentVolumeClaim", Object(&claims::CLAIM)),
        ("projected", Object(&data::PROJECTED_VOLUME)),
        ("secret", Object(&data::SECRET_VOLUME)),
    ],
    required: &["name"],
    ignored: &[],
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
        ("gitRepo", FILES),
        ("glusterfs", MOUNT_IT),
        ("iscsi", MOUNT_IT),
        ("nfs", MOUNT_IT),
        ("photonPersistentDisk", MOUNT_IT),
        ("portworxVolume", MOUNT_IT),
        ("quobyte", MOUNT_IT),
        ("rbd", MOUNT_IT),
        ("scaleIO", MOUNT_IT),
        ("storageos", MOUNT_IT),
        ("vsphereVolume", MOUNT_IT),
    ],
    known: known::<k8s::Volume>,
};

static IMAGE_VOLUME: Schema = Schema {
    supported: &[("pullPolicy", Text), ("reference", Text)],
    required: &["reference"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ImageVolumeSource>,
};

static EMPTY_DIR: Schema = Schema {
    supported: &[("medium", Text), ("sizeLimit", Quantity)],
    required: &[],
    ignored: &[],
    refused: &[("mode", "remove it; everybody may write")],
    known: known::<k8s::EmptyDirVolumeSource>,
};

pub(super) static HOST_PATH: Schema = Schema {
    supported: &[("path", Text), ("type", Text)],
    required: &["path"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::HostPathVolumeSource>,
};
