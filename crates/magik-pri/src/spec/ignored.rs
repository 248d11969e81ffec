//! Fields that are taken and change nothing, because of the pod's runtime class or another field.

use std::collections::HashSet;

use super::{AppArmor, ContainerSpec, EnvValue, IgnoredField, PodSpec, RuntimeClass};

/// What the annotations begin with that WebAssembly pods alone look at.
const OF_WASM: &str = "magikrun.dev/wasm.";

impl PodSpec {
    /// The fields that change nothing if a backend of that class runs the pod, with those that
    /// change nothing anywhere ([`ignored_fields`](Self::ignored_fields)).
    #[must_use]
    pub fn ignored(&self, class: RuntimeClass) -> Vec<IgnoredField> {
        let mut ignored = self.ignored_fields.clone();
        if class != RuntimeClass::Wasm {
            let ours = self.annotations.keys().filter(|key| key.contains(OF_WASM));
            ignored.extend(ours.map(|key| {
                IgnoredField::new(
                    format!("metadata.annotations.{key}"),
                    "only WebAssembly pods look at it",
                )
            }));
        }
        if self.host_users.is_some() && class != RuntimeClass::Native {
            ignored.push(IgnoredField::new(
                "spec.hostUsers",
                "only native pods have users of the host or of their own",
            ));
        }
        for (path, container) in self.containers_by_path() {
            variables(container, &path, &mut ignored);
            self.ports(container, &path, &mut ignored);
            match class {
                RuntimeClass::Native => {}
                RuntimeClass::MicroVm => in_machine(container, &path, &mut ignored),
                RuntimeClass::Wasm => in_wasm(container, &path, &mut ignored),
            }
        }
        for (i, volume) in self.volumes.iter().enumerate() {
            let mut mounts = self.all_containers().flat_map(|c| &c.mounts);
            if !mounts.any(|mount| mount.volume == volume.name) {
                let path = format!("spec.volumes[{i}]");
                ignored.push(IgnoredField::new(path, "no container mounts it"));
            }
        }
        ignored
    }

    fn ports(&self, container: &ContainerSpec, path: &str, ignored: &mut Vec<IgnoredField>) {
        for (i, port) in container.ports.iter().enumerate() {
            if self.host_network && port.host.is_some() {
                ignored.push(IgnoredField::new(
                    format!("{path}.ports[{i}].hostPort"),
                    "with hostNetwork the container itself listens on the host",
                ));
            }
        }
    }
}

/// Of equal names the last one counts.
fn variables(container: &ContainerSpec, path: &str, ignored: &mut Vec<IgnoredField>) {
    let mut later = HashSet::new();
    let mut hidden: Vec<usize> = Vec::new();
    for (i, variable) in container.env.iter().enumerate().rev() {
        // One that may be absent hides nothing.
        let may_be_absent = matches!(variable.value, EnvValue::Key { optional: true, .. });
        if later.contains(&variable.name) {
            hidden.push(i);
        } else if !may_be_absent {
            later.insert(&variable.name);
        }
    }
    let hidden = hidden.into_iter().rev();
    ignored.extend(
        hidden.map(|i| IgnoredField::new(format!("{path}.env[{i}]"), "a later variable has the same name")),
    );
}

fn in_machine(container: &ContainerSpec, path: &str, ignored: &mut Vec<IgnoredField>) {
    const WHY: &str = "the kernel of the machine has no such module";
    let security = &container.security;
    if matches!(security.app_armor, Some(AppArmor::RuntimeDefault)) {
        let path = format!("{path}.securityContext.appArmorProfile");
        ignored.push(IgnoredField::new(path, WHY));
    }
    if security.se_linux_options.is_some() {
        let path = format!("{path}.securityContext.seLinuxOptions");
        ignored.push(IgnoredField::new(path, WHY));
    }
}

fn in_wasm(container: &ContainerSpec, path: &str, ignored: &mut Vec<IgnoredField>) {
    if container.requests.cpu_millis.is_some() {
        ignored.push(IgnoredField::new(
            format!("{path}.resources.requests.cpu"),
            "WebAssembly containers share a process",
        ));
    }
    if !container.security.drop_capabilities.is_empty() {
        ignored.push(IgnoredField::new(
            format!("{path}.securityContext.capabilities.drop"),
            "WebAssembly has no capabilities",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_depends_on_the_class_and_on_other_fields() {
        let mut pod = PodSpec::from_yaml(
            "
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: {magikrun.dev/wasm.fuel: '1'}}
spec:
  hostUsers: true
  nodeName: a
  nodeSelector: {}
  securityContext: {appArmorProfile: {type: RuntimeDefault}, seLinuxOptions: {level: s0}}
  containers:
  - name: c
    image: b
    env: [{name: A, value: x}, {name: B, value: x}, {name: A, value: z}]
    resources: {requests: {cpu: 1}}
    securityContext: {capabilities: {drop: [ALL]}}
    ports: [{containerPort: 80, hostIP: 127.0.0.1}]
    volumeMounts: [{name: used, mountPath: /v}]
  volumes: [{name: used}, {name: unused}]
",
        )
        .unwrap();
        let paths = |list: Vec<IgnoredField>| list.into_iter().map(|i| i.field).collect::<Vec<_>>();
        let of_text = std::mem::take(&mut pod.ignored_fields);
        assert_eq!(
            paths(of_text),
            ["spec.nodeName", "spec.containers[0].ports[0].hostIP"]
        );
        assert_eq!(
            paths(pod.ignored(RuntimeClass::Native)),
            [
                "metadata.annotations.magikrun.dev/wasm.fuel",
                "spec.containers[0].env[0]",
                "spec.volumes[1]"
            ]
        );
        assert_eq!(
            paths(pod.ignored(RuntimeClass::MicroVm)),
            [
                "metadata.annotations.magikrun.dev/wasm.fuel",
                "spec.hostUsers",
                "spec.containers[0].env[0]",
                "spec.containers[0].securityContext.appArmorProfile",
                "spec.containers[0].securityContext.seLinuxOptions",
                "spec.volumes[1]"
            ]
        );
        assert_eq!(
            paths(pod.ignored(RuntimeClass::Wasm)),
            [
                "spec.hostUsers",
                "spec.containers[0].env[0]",
                "spec.containers[0].resources.requests.cpu",
                "spec.containers[0].securityContext.capabilities.drop",
                "spec.volumes[1]"
            ]
        );
    }
}
