//! The fields of probes, hooks and restart rules.

use k8s_openapi::api::core::v1 as k8s;

use crate::spec::schema::{
    Schema,
    Shape::{List, Object, PortOrName, Text, Texts, Whole, Wholes},
    known,
};

pub(in crate::spec) static LIFECYCLE: Schema = Schema {
    supported: &[
        ("postStart", Object(&HOOK)),
        ("preStop", Object(&HOOK)),
        ("stopSignal", Text),
    ],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::Lifecycle>,
};

static HOOK: Schema = Schema {
    supported: &[
        ("exec", Object(&EXEC)),
        ("httpGet", Object(&HTTP_GET)),
        ("sleep", Object(&SLEEP)),
    ],
    required: &[],
    ignored: &[],
    refused: &[(
        "tcpSocket",
        "Kubernetes does nothing for it; use exec, httpGet or sleep",
    )],
    known: known::<k8s::LifecycleHandler>,
};

pub(in crate::spec) static PROBE: Schema = Schema {
    supported: &[
        ("exec", Object(&EXEC)),
        ("failureThreshold", Whole),
        ("grpc", Object(&GRPC)),
        ("httpGet", Object(&HTTP_GET)),
        ("initialDelaySeconds", Whole),
        ("periodSeconds", Whole),
        ("successThreshold", Whole),
        ("tcpSocket", Object(&TCP_SOCKET)),
        ("terminationGracePeriodSeconds", Whole),
        ("timeoutSeconds", Whole),
    ],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::Probe>,
};

static EXEC: Schema = Schema {
    supported: &[("command", Texts)],
    required: &[],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ExecAction>,
};

static HTTP_GET: Schema = Schema {
    supported: &[
        ("host", Text),
        ("httpHeaders", List(&HTTP_HEADER)),
        ("path", Text),
        ("port", PortOrName),
        ("scheme", Text),
    ],
    required: &["port"],
    ignored: &[],
    refused: &[("protocol", "requests are HTTP/1.1; remove it")],
    known: known::<k8s::HTTPGetAction>,
};

static HTTP_HEADER: Schema = Schema {
    supported: &[("name", Text), ("value", Text)],
    required: &["name", "value"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::HTTPHeader>,
};

static TCP_SOCKET: Schema = Schema {
    supported: &[("host", Text), ("port", PortOrName)],
    required: &["port"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::TCPSocketAction>,
};

static GRPC: Schema = Schema {
    supported: &[("mode", Text), ("port", Whole), ("service", Text)],
    required: &["port"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::GRPCAction>,
};

static SLEEP: Schema = Schema {
    supported: &[("seconds", Whole)],
    required: &["seconds"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::SleepAction>,
};

pub(in crate::spec) static RESTART_RULE: Schema = Schema {
    supported: &[("action", Text), ("exitCodes", Object(&RESTART_CODES))],
    required: &["action"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ContainerRestartRule>,
};

static RESTART_CODES: Schema = Schema {
    supported: &[("operator", Text), ("values", Wholes)],
    required: &["operator"],
    ignored: &[],
    refused: &[],
    known: known::<k8s::ContainerRestartRuleOnExitCodes>,
};
