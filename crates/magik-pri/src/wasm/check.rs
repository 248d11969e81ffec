//! What of a pod means nothing to a WebAssembly program is refused by name, so that nobody relies
//! on it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use magik_infra::plan::Handler;
use oci_wasm::annotations::{ALLOW_OUTBOUND, DEADLINE, FUEL, HTTP_CONCURRENCY, LISTEN};

use crate::{
    AppArmor, ContainerSpec, Dns, HostPathKind, Limits, MountPropagation, PodSpec, ProcMount, Protocol,
    ResizeRestarts, Seccomp, SpecError, SpecErrors, VolumeSource,
    spec::{Facts, Problems},
};

/// What all of our annotations begin with.
const PREFIX: &str = "magikrun.dev/wasm.";

/// `mounts`: the pod's process has mounts of its own.
pub(super) fn check(spec: &PodSpec, mounts: bool) -> Result<(), SpecErrors> {
    let mut problems = Problems::default();
    if spec.share_process_namespace {
        problems.add(SpecError::unsupported(
            "spec.shareProcessNamespace",
            "WebAssembly containers are no processes; remove it",
        ));
    }
    let of_pod = [
        (
            spec.host_pid,
            "hostPID",
            "WebAssembly containers are no processes; remove it",
        ),
        (
            spec.host_ipc,
            "hostIPC",
            "WebAssembly has no System V IPC; remove it",
        ),
        (
            !spec.host_aliases.is_empty(),
            "hostAliases",
            "WebAssembly containers have no /etc/hosts; remove them",
        ),
        (
            spec.subdomain.is_some(),
            "subdomain",
            "WebAssembly containers have no /etc/hosts; remove it",
        ),
        (
            spec.dns
                != (Dns {
                    policy: spec.dns.policy,
                    ..Dns::default()
                }),
            "dnsConfig",
            "names are looked up by the host; remove it",
        ),
        (
            !spec.sysctls.is_empty(),
            "securityContext.sysctls",
            "WebAssembly containers have no namespaces; remove them",
        ),
        (
            spec.limits != Limits::default(),
            "resources.limits",
            "limit each container; remove it",
        ),
        (
            spec.fs_group.is_some(),
            "securityContext.fsGroup",
            "WebAssembly has no users; remove it",
        ),
    ];
    for (_, field, why) in of_pod.into_iter().filter(|(asked, ..)| *asked) {
        problems.add(SpecError::unsupported(format!("spec.{field}"), why));
    }
    for (i, volume) in spec.volumes.iter().enumerate() {
        if matches!(volume.source, VolumeSource::Data(_)) && !mounts {
            problems.add(SpecError::unsupported(
                format!("spec.volumes[{i}]"),
                "this host lets nobody but root mount the memory that such files lie in; become root",
            ));
        }
        if let VolumeSource::HostPath(host) = &volume.source
            && !matches!(
                host.kind,
                HostPathKind::Any | HostPathKind::Directory | HostPathKind::DirectoryOrCreate
            )
        {
            problems.add(SpecError::unsupported(
                format!("spec.volumes[{i}].hostPath.type"),
                "WebAssembly containers are given directories only; use Directory",
            ));
        }
    }
    for (path, container) in spec.containers_by_path() {
        check_container(container, &path, &mut problems);
        check_mounts(spec, container, &path, &mut problems);
    }
    for key in spec.annotations.keys() {
        if let Err(reason) = check_annotation(spec, key) {
            problems.add(SpecError::invalid(format!("metadata.annotations.{key}"), reason));
        }
    }
    problems.finish()
}

fn check_container(container: &ContainerSpec, path: &str, problems: &mut Problems) {
    let security = &container.security;
    let refused = [
        (
            security.privileged,
            "privileged",
            "there are no privileges to give to WebAssembly; remove it",
        ),
        (
            !security.add_capabilities.is_empty(),
            "capabilities.add",
            "there are no capabilities to give to WebAssembly; remove it",
        ),
        (
            security.run_as_user.is_some(),
            "runAsUser",
            "WebAssembly has no users; remove it",
        ),
        (
            security.run_as_group.is_some(),
            "runAsGroup",
            "WebAssembly has no users; remove it",
        ),
        (
            !security.supplemental_groups.is_empty(),
            "supplementalGroups",
            "WebAssembly has no users; remove it",
        ),
        // runAsNonRoot holds already, and so does RuntimeDefault: the filter of these containers is
        // always the same.
        (
            security.seccomp != Seccomp::RuntimeDefault,
            "seccompProfile",
            "WebAssembly containers share a process and its filter; use RuntimeDefault, or leave it out",
        ),
        (
            matches!(security.app_armor, Some(AppArmor::Localhost { .. })),
            "appArmorProfile",
            "WebAssembly containers share a process; use Unconfined, or leave it out",
        ),
        (
            security.se_linux_options.is_some(),
            "seLinuxOptions",
            "WebAssembly containers share a process; remove it",
        ),
        (
            security.proc_mount != ProcMount::Default,
            "procMount",
            "WebAssembly containers have no /proc; remove it",
        ),
    ];
    for (_, field, why) in refused.into_iter().filter(|(asked, ..)| *asked) {
        let path = format!("{path}.securityContext.{field}");
        problems.add(SpecError::unsupported(path, why));
    }
    if container.resize_restarts != ResizeRestarts::default() {
        problems.add(SpecError::unsupported(
            format!("{path}.resizePolicy"),
            "the limits of a WebAssembly container stay as they are; remove it",
        ));
    }
    if container.console.tty {
        problems.add(SpecError::unsupported(
            format!("{path}.tty"),
            "WebAssembly programs have no terminals; remove it",
        ));
    }
    if security.read_only_root_filesystem && !container.termination_message.is_usual_file() {
        problems.add(SpecError::unsupported(
            format!("{path}.terminationMessagePath"),
            "a WebAssembly container writes to its root alone, which is read-only; remove one of the two",
        ));
    }
    check_handlers(container, path, problems);
    check_limits(container, path, problems);
    for (i, port) in container.ports.iter().enumerate() {
        if port.protocol == Protocol::Sctp {
            let path = format!("{path}.ports[{i}].protocol");
            problems.add(SpecError::unsupported(path, "WASI has TCP and UDP"));
        }
    }
}

fn check_mounts(spec: &PodSpec, container: &ContainerSpec, path: &str, problems: &mut Problems) {
    let facts = Facts::unknown();
    let bound = container.bind(spec, &facts).unwrap_or_default();
    for (i, mount) in container.mounts.iter().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if mount.propagation != MountPropagation::None {
            problems.add(SpecError::unsupported(
                format!("{path}.mountPropagation"),
                "WebAssembly containers have no mounts; remove it",
            ));
        }
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.volume);
        let (Some(VolumeSource::Data(data)), Some(Some(part))) =
            (volume.map(|volume| &volume.source), bound.sub_paths.get(i))
        else {
            continue;
        };
        let part: PathBuf = Path::new(part).components().collect();
        let files = data.bind(spec, &facts).unwrap_or_default();
        if files.keys().any(|file| Path::new(file) == part) {
            problems.add(SpecError::unsupported(
                format!("{path}.subPath"),
                "WebAssembly containers are given directories only, and it is a file; mount the whole volume",
            ));
        }
    }
}

fn check_limits(container: &ContainerSpec, path: &str, problems: &mut Problems) {
    for (name, limit) in container.limits.huge_pages() {
        if limit.is_some() {
            let path = format!("{path}.resources.limits.{name}");
            problems.add(SpecError::unsupported(
                path,
                "WebAssembly has no huge pages; remove it",
            ));
        }
    }
    if container.limits.cpu_millis.is_some() {
        problems.add(SpecError::unsupported(
            format!("{path}.resources.limits.cpu"),
            format!(
                "the containers share a process; limit their work with the annotation {FUEL}, or their time with {DEADLINE}"
            ),
        ));
    }
}

fn check_handlers(container: &ContainerSpec, path: &str, problems: &mut Problems) {
    let lifecycle = &container.lifecycle;
    let handlers = [
        (
            "startupProbe",
            lifecycle.startup.as_ref().map(|probe| &probe.handler),
        ),
        (
            "readinessProbe",
            lifecycle.readiness.as_ref().map(|probe| &probe.handler),
        ),
        (
            "livenessProbe",
            lifecycle.liveness.as_ref().map(|probe| &probe.handler),
        ),
        ("lifecycle.postStart", lifecycle.post_start.as_ref()),
        ("lifecycle.preStop", lifecycle.pre_stop.as_ref()),
    ];
    for (field, handler) in handlers {
        if let Some(Handler::Exec { .. }) = handler {
            problems.add(SpecError::unsupported(
                format!("{path}.{field}.exec"),
                "there are no other programs in a WebAssembly container; use httpGet or tcpSocket",
            ));
        }
    }
}

fn check_annotation(spec: &PodSpec, key: &str) -> Result<(), String> {
    let Some((container, name)) = split(key) else {
        return Ok(());
    };
    if let Some(container) = container
        && !spec.all_containers().any(|c| c.name == container)
    {
        return Err(format!(
            "no container is called {container}: name one of the pod's"
        ));
    }
    match name.as_str() {
        FUEL | DEADLINE | HTTP_CONCURRENCY => Ok(()),
        ALLOW_OUTBOUND if spec.host_network => Ok(()),
        ALLOW_OUTBOUND => Err("needs hostNetwork: true, for a pod's own network leads nowhere".into()),
        LISTEN => Err("list the ports in spec.containers[].ports".into()),
        _ => Err(format!(
            "is no annotation of magikrun: use {FUEL}, {DEADLINE}, {HTTP_CONCURRENCY} or {ALLOW_OUTBOUND}"
        )),
    }
}

/// `[CONTAINER.]magikrun.dev/wasm.NAME`: the container, if it is about one, and the rest.
fn split(key: &str) -> Option<(Option<&str>, String)> {
    if key.starts_with(PREFIX) {
        return Some((None, key.to_owned()));
    }
    let (container, name) = key.split_once(&format!(".{PREFIX}"))?;
    Some((Some(container), format!("{PREFIX}{name}")))
}

/// What the pod's annotations say about one container: its own over those of the pod.
pub(super) fn annotations_for(spec: &PodSpec, container: &str) -> BTreeMap<String, String> {
    let of = |wanted: Option<&str>| {
        let ours = spec.annotations.iter().filter_map(move |(key, value)| {
            let (container, name) = split(key)?;
            (container == wanted).then(|| (name, value.clone()))
        });
        ours.collect::<BTreeMap<_, _>>()
    };
    let mut annotations = of(None);
    annotations.extend(of(Some(container)));
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(metadata: &str, spec: &str, container: &str) -> PodSpec {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{metadata}}}, spec: {{containers: [{{name: c, image: i{container}}}]{spec}}}}}"
        );
        PodSpec::from_yaml(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// Checks that pieces of a pod are refused. A line of `table` is `PIECE => FIELD`; the error
    /// names the field.
    fn refused(table: &str, pod: impl Fn(&str) -> PodSpec) {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (piece, field) = line.split_once(" => ").expect(line);
            let said = check(&pod(&format!(", {piece}")), true).unwrap_err().to_string();
            assert!(said.contains(field) && !said.contains('\n'), "{field}: {said}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        let of_pod = "
            shareProcessNamespace: true => spec.shareProcessNamespace
            hostAliases: [{ip: 192.0.2.1, hostnames: [a]}] => spec.hostAliases
            hostPID: true => spec.hostPID
            hostIPC: true => spec.hostIPC
            subdomain: s => spec.subdomain
            dnsConfig: {searches: [a]} => spec.dnsConfig
            securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}]} => spec.securityContext.sysctls
            securityContext: {fsGroup: 5} => spec.securityContext.fsGroup
            securityContext: {supplementalGroups: [5]} => spec.containers[0].securityContext.supplementalGroups
            volumes: [{name: v, hostPath: {path: /x, type: Socket}}] => spec.volumes[0].hostPath.type
        ";
        refused(of_pod, |piece| pod("", piece, ""));
        let of_life = "
            livenessProbe: {exec: {command: [a]}} => spec.containers[0].livenessProbe.exec
            lifecycle: {preStop: {exec: {command: [a]}}} => spec.containers[0].lifecycle.preStop.exec
        ";
        refused(of_life, |piece| pod("", "", piece));
        let of_container = "
            securityContext: {privileged: true} => spec.containers[0].securityContext.privileged
            securityContext: {capabilities: {add: [NET_ADMIN]}} => spec.containers[0].securityContext.capabilities.add
            securityContext: {runAsUser: 1} => spec.containers[0].securityContext.runAsUser
            securityContext: {seccompProfile: {type: Unconfined}} => spec.containers[0].securityContext.seccompProfile
            securityContext: {appArmorProfile: {type: Localhost, localhostProfile: p}} => spec.containers[0].securityContext.appArmorProfile
            securityContext: {seLinuxOptions: {level: s0}} => spec.containers[0].securityContext.seLinuxOptions
            resources: {limits: {cpu: 1}} => spec.containers[0].resources.limits.cpu
            terminationMessagePath: /m, securityContext: {readOnlyRootFilesystem: true} => spec.containers[0].terminationMessagePath
            ports: [{containerPort: 1, protocol: SCTP}] => spec.containers[0].ports[0].protocol
        ";
        refused(of_container, |piece| pod("", "", piece));
        let of_metadata = "
            annotations: {magikrun.dev/wasm.feul: '1'} => metadata.annotations.magikrun.dev/wasm.feul
            annotations: {d.magikrun.dev/wasm.fuel: '1'} => metadata.annotations.d.magikrun.dev/wasm.fuel
            annotations: {magikrun.dev/wasm.listen: '1'} => metadata.annotations.magikrun.dev/wasm.listen
            annotations: {magikrun.dev/wasm.allow-outbound: 'a:1'} => hostNetwork
        ";
        refused(of_metadata, |piece| pod(piece, "", ""));
        let fine = ", securityContext: {capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}, resources: {limits: {memory: 64Mi}}, \
                    ports: [{containerPort: 53, protocol: UDP}]";
        assert!(check(&pod(", annotations: {example.com/a: b}", "", fine), true).is_ok());
        let restricted = ", securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, \
                          seccompProfile: {type: RuntimeDefault}}";
        assert!(check(&pod("", "", restricted), true).is_ok());
        let outbound = ", annotations: {magikrun.dev/wasm.allow-outbound: 'a:1'}";
        assert!(check(&pod(outbound, ", hostNetwork: true", ""), true).is_ok());
    }

    #[test]
    fn a_containers_annotation_goes_before_the_pods() {
        let spec = pod(
            ", annotations: {magikrun.dev/wasm.fuel: '1', c.magikrun.dev/wasm.fuel: 'off', magikrun.dev/wasm.deadline-seconds: '9'}",
            "",
            "",
        );
        assert!(check(&spec, true).is_ok());
        let expected = [(DEADLINE, "9"), (FUEL, "off")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(annotations_for(&spec, "c"), BTreeMap::from(expected));
        assert_eq!(annotations_for(&spec, "d")[FUEL], "1");
    }
}
