//! Tests of parsing: what is accepted, and how each error names its field.

use std::{path::Path, time::Duration};

use super::*;

mod all;
mod data;
mod documents;
mod environment;
mod security;
mod values;
mod workloads;

/// A pod of one container `c`, with more lines of `spec` and of the container.
fn manifest(spec: &str, container: &str) -> String {
    let indent = |text: &str, by: &str| text.lines().map(|l| format!("{by}{l}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n{}  containers:\n  - name: c\n    image: busybox:1\n{}",
        indent(spec, "  "),
        indent(container, "    ")
    )
}

fn parse(spec: &str, container: &str) -> PodSpec {
    PodSpec::from_yaml(&manifest(spec, container)).unwrap()
}

/// What the container of that name is started with.
fn bound(pod: &PodSpec, container: &str) -> Bound {
    let container = pod.all_containers().find(|c| c.name == container).unwrap();
    container
        .bind(pod, &Facts::of_pod("0123456789abcdef01234567"))
        .unwrap()
}

fn error(spec: &str, container: &str) -> String {
    PodSpec::from_yaml(&manifest(spec, container))
        .unwrap_err()
        .to_string()
}

/// Checks how pieces of a manifest are refused. A line of `table` is `PIECE => MESSAGE`; the error
/// starts with `prefix` and the message, and is one line.
fn refused(prefix: &str, table: &str, error: impl Fn(&str) -> String) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (piece, message) = line.split_once(" => ").expect(line);
        let error = error(piece);
        assert!(
            error.starts_with(&format!("{prefix}{message}")),
            "{error}\n  wanted {message}"
        );
        assert!(!error.contains('\n'), "{error:?}");
    }
}

fn refused_in_pod(table: &str) {
    refused("spec.", table, |piece| error(piece, ""));
}

fn refused_in_container(table: &str) {
    refused("spec.containers[0].", table, |piece| error("", piece));
}

#[test]
fn host_aliases_are_addresses_and_names() {
    let pod = parse(
        "hostAliases: [{ip: 192.0.2.1, hostnames: [a, b.c]}, {ip: '::1'}]",
        "",
    );
    let expected = [
        (
            "192.0.2.1".parse().unwrap(),
            vec!["a".to_owned(), "b.c".to_owned()],
        ),
        ("::1".parse().unwrap(), vec![]),
    ];
    assert_eq!(pod.host_aliases, expected);
    refused_in_pod(
        r#"
        hostAliases: [{ip: 192.0.2, hostnames: [a]}] => hostAliases[0].ip: "192.0.2" is no IP address
        hostAliases: [{ip: 192.0.2.1, hostnames: [a, "b c"]}] => hostAliases[0].hostnames[1]: "b c" may hold
        hostAliases: [{ip: 192.0.2.1, hostnames: ["a\n1.2.3.4 b"]}] => hostAliases[0].hostnames[0]
        hostAliases: [{ip: 192.0.2.1, names: [a]}] => hostAliases[0].names
        "#,
    );
}

#[test]
fn reads_every_supported_field() {
    let pod = PodSpec::from_yaml(include_str!("../../tests/data/full.yaml")).unwrap();
    assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("full", "shop"));
    assert_eq!(pod.labels["app"], "shop");
    assert_eq!(pod.annotations["example.com/note"], "free text: anything");
    assert_eq!(pod.hostname.as_deref(), Some("shop-1"));
    assert!(pod.host_network && pod.share_process_namespace);
    assert_eq!(
        (pod.subdomain.as_deref(), pod.fs_group),
        (Some("web"), Some(5000))
    );
    assert_eq!(pod.dns.policy, DnsPolicy::None);
    assert_eq!(pod.dns.options, [("ndots".to_owned(), Some("2".to_owned()))]);
    assert_eq!(
        pod.sysctls,
        [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]
    );
    assert_eq!(
        (pod.limits.cpu_millis, pod.requests.memory),
        (Some(1000), Some(64 << 20))
    );
    assert!(pod.ignored_fields.is_empty(), "{:?}", pod.ignored_fields);
    assert_eq!(pod.termination_grace_period, Duration::from_secs(5));
    assert_eq!(pod.active_deadline, Some(Duration::from_secs(600)));
    assert_eq!(pod.runtime_class, Some(RuntimeClass::Native));
    let names: Vec<_> = pod.all_containers().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["setup", "web"]);
    let web = &pod.containers[0];
    assert_eq!(web.image.to_string(), "docker.io/library/nginx:1.27");
    assert_eq!(web.image_pull_policy, Some(PullPolicy::Never));
    assert_eq!(web.command.as_deref(), Some(&["nginx".to_owned()][..]));
    let bound = bound(&pod, "web");
    assert_eq!(bound.args.unwrap(), ["-g", "daemon off; # shop-1"]);
    let (name, value) = &bound.env[1];
    assert_eq!((name.as_str(), value.as_str()), ("URL", "http://shop-1/"));
    assert_eq!(web.working_dir.as_deref(), Some(Path::new("/srv")));
    assert_eq!(
        web.limits,
        Limits {
            cpu_millis: Some(500),
            memory: Some(64 << 20),
            ..Limits::default()
        }
    );
    assert_eq!(
        web.requests,
        Limits {
            cpu_millis: Some(100),
            memory: Some(32 << 20),
            ..Limits::default()
        }
    );
    assert_eq!(
        (web.security.run_as_user, web.security.run_as_group),
        (Some(101), Some(102))
    );
    assert_eq!(pod.host_users, Some(true));
    security_of_every_field(&pod);
    assert!(web.security.read_only_root_filesystem && !web.security.privileged);
    assert_eq!(web.security.add_capabilities, ["NET_BIND_SERVICE"]);
    assert_eq!(web.security.drop_capabilities, ["ALL"]);
    let paths: Vec<_> = web
        .mounts
        .iter()
        .map(|m| (m.path.to_str().unwrap(), m.read_only))
        .collect();
    assert_eq!(
        paths,
        [("/srv/etc/hosts", false), ("/srv/html", true), ("/srv", false)]
    );
    assert_eq!(
        web.ports[0],
        Port {
            name: Some("http".into()),
            container_port: 80,
            host: Some(([127, 0, 0, 1], 80).into()),
            protocol: Protocol::Tcp
        }
    );
    assert_eq!(pod.volumes[0].source, VolumeSource::EmptyDir(EmptyDir::Disk));
    assert_eq!(
        pod.volumes[1].source,
        VolumeSource::EmptyDir(EmptyDir::Memory {
            size_limit: Some(16 << 20)
        })
    );
    let hosts = HostPath {
        path: "/etc/hosts".into(),
        kind: HostPathKind::File,
    };
    assert_eq!(pod.volumes[2].source, VolumeSource::HostPath(hosts));
}

fn security_of_every_field(pod: &PodSpec) {
    let (setup, web) = (&pod.init_containers[0].security, &pod.containers[0].security);
    // What the pod says holds for the container that is silent, and what a container says goes
    // before it.
    assert_eq!((setup.run_as_user, setup.run_as_group), (Some(1000), Some(1000)));
    let local = |profile: &str| Seccomp::Localhost {
        profile: profile.into(),
    };
    assert_eq!(setup.seccomp, local("team/default.json"));
    assert_eq!(web.seccomp, Seccomp::RuntimeDefault);
    assert_eq!(setup.app_armor, Some(AppArmor::RuntimeDefault));
    let profile = "web".into();
    assert_eq!(web.app_armor, Some(AppArmor::Localhost { profile }));
    let label = setup.se_linux_options.as_ref().unwrap();
    let parts = [&label.user, &label.role, &label.type_, &label.level].map(|part| part.as_deref());
    assert_eq!(parts, [Some("u"), Some("r"), Some("t"), Some("s0:c1,c2")]);
    let label = web.se_linux_options.as_ref().unwrap();
    assert_eq!((label.level.as_deref(), &label.user), (Some("s0"), &None));
    for security in [setup, web] {
        assert!(security.run_as_non_root && security.strict_supplemental_groups);
        assert_eq!(security.supplemental_groups, [4000, 5000]);
        assert_eq!(security.proc_mount, ProcMount::Default);
    }
    assert!(setup.allow_privilege_escalation && !web.allow_privilege_escalation);
}

#[test]
fn defaults_are_those_of_kubernetes() {
    let pod = parse("", "");
    assert_eq!(pod.namespace, "default");
    assert_eq!(pod.termination_grace_period, crate::limits::DEFAULT_GRACE_PERIOD);
    assert_eq!(pod.runtime_class, None);
    assert_eq!(pod.containers[0].pull_policy(), PullPolicy::IfNotPresent);
    let policy = |image: &str| {
        let text = manifest("", "").replace("busybox:1", image);
        PodSpec::from_yaml(&text).unwrap().containers[0].pull_policy()
    };
    assert_eq!(policy("busybox"), PullPolicy::Always);
    assert_eq!(policy("busybox:latest"), PullPolicy::Always);
    assert_eq!(policy("'oci:/images/busybox'"), PullPolicy::IfNotPresent);
    // A volume without a source, and null where something may be.
    let pod = parse(
        "volumes: [{name: v}, {name: w, emptyDir: }]\nhostname: null\ninitContainers: null",
        "env:\nresources: {}",
    );
    assert_eq!(pod.volumes[1].source, VolumeSource::EmptyDir(EmptyDir::Disk));
}

#[test]
fn json_is_read_as_yaml_is() {
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}}"#;
    assert_eq!(PodSpec::from_json(json).unwrap(), parse("", ""));
    assert_eq!(PodSpec::from_yaml(json).unwrap(), parse("", ""));
    assert!(
        PodSpec::from_json("{")
            .unwrap_err()
            .to_string()
            .starts_with("not valid JSON: ")
    );
}

#[test]
fn fields_that_kubernetes_has_not_are_unknown_and_the_near_one_is_named() {
    refused_in_pod(
        r#"
        restartpolicy: Never => restartpolicy: unknown field, did you mean restartPolicy?
        volumes: [{name: v, emptyDir: {zzz: 1}}] => volumes[0].emptyDir.zzz: unknown field
        "a b\n": 1 => "a b\n": unknown field
        "#,
    );
    refused_in_container(
        r#"
        imagePullPolcy: Never => imagePullPolcy: unknown field, did you mean imagePullPolicy?
        command_line: x => command_line: unknown field
        securityContext: {capabilities: {ad: []}} => securityContext.capabilities.ad: unknown field, did you mean add?
        "#,
    );
}

#[test]
fn fields_that_kubernetes_has_and_this_not_are_named() {
    refused_in_pod(
        r#"
        resourceClaims: [] => resourceClaims: not supported: remove them
        securityContext: {windowsOptions: {}} => securityContext.windowsOptions: not supported: containers are Linux's
        volumes: [{name: v, emptyDir: {medium: HugePages}}] => volumes[0].emptyDir.medium: not supported:
        "#,
    );
    refused_in_container(
        r#"
        securityContext: {windowsOptions: {}} => securityContext.windowsOptions: not supported: containers are Linux's
        ports: [{containerPort: 80, hostPort: 80, protocol: UDP}] => ports[0].hostPort: not supported: only TCP
        env: [{name: A, valueFrom: {fileKeyRef: {}}}] => env[0].valueFrom.fileKeyRef: not supported: put the value into
        resources: {limits: {example.com/gpu: 1}} => resources.limits.example.com/gpu: not supported: there is no such device
        "#,
    );
    refused(
        "spec.containers[0].",
        "volumeMounts: [{name: v, mountPath: /v, bindMountOptions: [x]}] => volumeMounts[0].bindMountOptions: not supported:",
        |mounts| error("volumes: [{name: v}]", mounts),
    );
}

#[test]
fn what_a_scheduler_or_a_cluster_reads_is_taken_and_told() {
    let pod = PodSpec::from_yaml(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, uid: x, ownerReferences: [{a: {b: [1, [2]]}}], creationTimestamp: null, finalizers: []}
spec:
  affinity: text
  priority: 0
  tolerations: []
  serviceAccountName: ''
  os: {name: linux}
  containers: [{name: c, image: b}]
status: {phase: Running}
",
    )
    .unwrap();
    let mut fields: Vec<_> = pod.ignored_fields.iter().map(|i| i.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "metadata.ownerReferences",
            "metadata.uid",
            "spec.affinity",
            "spec.priority",
            "status"
        ]
    );
    let of_cluster = |field: &str| pod.ignored_fields.iter().find(|i| i.field == field).unwrap();
    assert_eq!(of_cluster("status").why, "it is what a cluster reports");
    assert_eq!(
        of_cluster("spec.affinity").why,
        "a scheduler reads it, and there is one host"
    );
}

#[test]
fn what_is_no_pod_says_what_it_is() {
    let pod = manifest("", "");
    for (text, message) in [
        ("", "not a pod: there is nothing in it"),
        ("---\n---\n", "not a pod: there is nothing in it"),
        ("3", "not a pod: it is a number"),
        ("[]", "not a pod: it is a list"),
        ("just text", "not a pod: it is a string"),
        ("a: b", "not a pod: it is an object without kind"),
        (
            &format!("{pod}---\n{}", pod.replace("name: p", "name: q")),
            "not a pod: 2 pods, and one is wanted",
        ),
        ("a: [", "not valid YAML: "),
        ("a: 1\na: 2", "not valid YAML: "),
    ] {
        let error = PodSpec::from_yaml(text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}\n  wanted {message}");
        assert!(!error.contains('\n'), "{error:?}");
    }
    refused(
        "",
        r#"
        {kind: Endpoints, apiVersion: v1} => not a pod: it is "Endpoints" of "v1"
        {kind: Deployment, apiVersion: apps/v1beta1} => not a pod: it is "Deployment" of "apps/v1beta1"
        {kind: Pod, apiVersion: v2} => not a pod: it is "Pod" of "v2"
        {apiVersion: v1, kind: Pod} => metadata.name: is missing
        {apiVersion: v1, kind: Pod, metadata: {name: p}} => spec: is missing
        {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: []}} => spec.containers: a pod has at least one
        {apiVersion: v1, kind: Pod, metadata: {name: ../p}, spec: {containers: []}} => metadata.name:
        {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a.b}, spec: {containers: []}} => metadata.namespace:
        {apiVersion: v1, kind: Pod, metadata: {name: p, generateName: x}, spec: {containers: []}} => metadata.generateName: not supported
        {apiVersion: v1, kind: Pod, metadata: {name: p}, status: {phase: Running}} => spec: is missing
        {apiVersion: v1, kind: Pod, metadata: {name: p, labels: {a: 'b c'}}} => metadata.labels.a:
        "#,
        |text| PodSpec::from_yaml(text).unwrap_err().to_string(),
    );
    assert!(PodSpec::from_yaml(&format!("---\n{pod}---\n")).is_ok());
}

#[test]
fn hostile_yaml_is_refused_quickly() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert!(PodSpec::from_yaml(bomb).is_err());
    assert!(matches!(
        PodSpec::from_yaml(&"[".repeat(100_000)).unwrap_err().errors()[..],
        [SpecError::Syntax { .. }]
    ));
    assert!(PodSpec::from_json(&"[".repeat(100_000)).is_err());
    assert!(PodSpec::from_yaml("!!binary x").is_err());
    // Environment variables that double each other.
    let vars: Vec<_> = (1..64)
        .map(|i| format!("{{name: V{i}, value: '$(V{})$(V{})'}}", i - 1, i - 1))
        .collect();
    let error = error(
        "",
        &format!("env: [{{name: V0, value: xx}}, {}]", vars.join(", ")),
    );
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn a_manifest_at_the_size_limit_is_read_and_one_past_it_refused() {
    let pad = |size: usize| {
        let text = manifest("", "");
        format!("{text}#{}", " ".repeat(size - text.len() - 1))
    };
    assert!(PodSpec::from_yaml(&pad(crate::limits::MAX_SPEC_SIZE)).is_ok());
    assert_eq!(
        PodSpec::from_yaml(&pad(crate::limits::MAX_SPEC_SIZE + 1)),
        Err(SpecError::TooLarge((1 << 20) + 1).into())
    );
    assert!(matches!(
        PodSpec::from_json(&" ".repeat(10 << 20)).unwrap_err().errors()[..],
        [SpecError::TooLarge(_)]
    ));
}

#[test]
fn counts_at_their_bounds() {
    let list = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    let init = |n| {
        format!(
            "initContainers: [{}]",
            list(n, &|i| format!("{{name: i{i}, image: b}}"))
        )
    };
    assert_eq!(parse(&init(15), "").init_containers.len(), 15);
    assert!(error(&init(16), "").starts_with("spec.containers: 17 containers"));
    let volumes = |n| format!("volumes: [{}]", list(n, &|i| format!("{{name: v{i}}}")));
    assert_eq!(parse(&volumes(64), "").volumes.len(), 64);
    assert!(error(&volumes(65), "").starts_with("spec.volumes: 65 volumes"));
    let env = |n| format!("env: [{}]", list(n, &|i| format!("{{name: E{i}, value: x}}")));
    assert_eq!(parse("", &env(256)).containers[0].env.len(), 256);
    assert!(error("", &env(257)).starts_with("spec.containers[0].env: 257 variables"));
    let ports = |n| {
        let port = |i| format!("{{containerPort: {}, hostPort: {}}}", i + 1, i + 1);
        format!("ports: [{}]", list(n, &port))
    };
    assert_eq!(parse("", &ports(64)).containers[0].ports.len(), 64);
    assert!(error("", &ports(65)).starts_with("spec.containers[0].ports[64].hostPort: more than 64"));
    let named = |n: usize| {
        manifest("", "").replace(
            "name: p",
            &format!(
                "name: {}",
                ["x".repeat(63), "x".repeat(63), "x".repeat(n - 128)].join(".")
            ),
        )
    };
    assert!(PodSpec::from_yaml(&named(191)).is_ok());
    assert!(
        PodSpec::from_yaml(&named(192))
            .unwrap_err()
            .to_string()
            .starts_with("metadata.name: has 192")
    );
}
