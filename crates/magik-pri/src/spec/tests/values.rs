//! Values that are wrong.

use super::*;

#[test]
fn wrong_values_are_named_by_path() {
    for (spec, container, message) in [
        (
            "hostNetwork: 3",
            "",
            "spec.hostNetwork: invalid type: integer `3`",
        ),
        (
            "",
            "env: [{name: A, value: 8080}]",
            "spec.containers[0].env[0].value: invalid type: integer `8080`",
        ),
        ("", "env: {A: b}", "spec.containers[0].env: expected a list"),
        ("", "env: [A]", "spec.containers[0].env[0]: expected an object"),
        (
            "",
            "env: [{name: A=B, value: x}]",
            "spec.containers[0].env[0].name: ",
        ),
        (
            "",
            "command: sh",
            "spec.containers[0].command: invalid type: string",
        ),
        (
            "",
            "workingDir: srv",
            "spec.containers[0].workingDir: \"srv\" must be absolute",
        ),
        (
            "",
            "imagePullPolicy: Sometimes",
            "spec.containers[0].imagePullPolicy: \"Sometimes\" is none of",
        ),
        (
            "",
            "resources: {limits: {memory: 128m}}",
            "spec.containers[0].resources.limits.memory: 1 bytes, at least",
        ),
        (
            "",
            "resources: {limits: {memory: lots}}",
            "spec.containers[0].resources.limits.memory: \"lots\" is no quantity",
        ),
        (
            "",
            "resources: {limits: {cpu: 0}}",
            "spec.containers[0].resources.limits.cpu: must be more than 0",
        ),
        (
            "",
            "resources: {limits: {cpu: -1}}",
            "spec.containers[0].resources.limits.cpu: -1 is negative",
        ),
        (
            "",
            "resources: {limits: {cpu: 1}, requests: {cpu: 2}}",
            "spec.containers[0].resources.requests.cpu: must not be more",
        ),
        (
            "",
            "securityContext: {runAsUser: -1}",
            "spec.containers[0].securityContext.runAsUser: -1 is not between",
        ),
        (
            "",
            "securityContext: {runAsGroup: 1}",
            "spec.containers[0].securityContext.runAsGroup: needs runAsUser",
        ),
        (
            "",
            "securityContext: {capabilities: {add: [A-B]}}",
            "spec.containers[0].securityContext.capabilities.add[0]: ",
        ),
        (
            "",
            "volumeMounts: [{name: v, mountPath: /v}]",
            "spec.containers[0].volumeMounts[0].name: no volume of the pod is called \"v\"",
        ),
        (
            "volumes: [{name: v}, {name: v}]",
            "",
            "spec.volumes[1].name: another volume is called v",
        ),
        (
            "volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}]",
            "",
            "spec.volumes[0]: is both",
        ),
        (
            "volumes: [{name: v, hostPath: {path: tmp}}]",
            "",
            "spec.volumes[0].hostPath.path: \"tmp\" must be absolute",
        ),
        (
            "volumes: [{name: v, hostPath: {path: /a/../b}}]",
            "",
            "spec.volumes[0].hostPath.path: \"/a/../b\" must not hold '..'",
        ),
        (
            "volumes: [{name: v, hostPath: {path: /, type: Dir}}]",
            "",
            "spec.volumes[0].hostPath.type: \"Dir\" is none of",
        ),
        (
            "volumes: [{name: v}]",
            "volumeMounts: [{name: v, mountPath: /}]",
            "spec.containers[0].volumeMounts[0].mountPath: must not be /",
        ),
        (
            "volumes: [{name: v}]",
            "volumeMounts: [{name: v, mountPath: v}]",
            "spec.containers[0].volumeMounts[0].mountPath: \"v\" must be absolute",
        ),
        (
            "volumes: [{name: v}]",
            "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v/}]",
            "spec.containers[0].volumeMounts[1].mountPath: /v is mounted on twice",
        ),
        (
            "",
            "ports: [{containerPort: 0}]",
            "spec.containers[0].ports[0].containerPort: 0 is not between",
        ),
        (
            "",
            "ports: [{containerPort: 65536}]",
            "spec.containers[0].ports[0].containerPort: 65536 is not between",
        ),
        (
            "",
            "ports: [{containerPort: 80}, {containerPort: 80}]",
            "spec.containers[0].ports[1].containerPort: 80 is listed twice",
        ),
        (
            "",
            "ports: [{containerPort: 80, protocol: tcp}]",
            "spec.containers[0].ports[0].protocol: \"tcp\" is none of",
        ),
        (
            "",
            "ports: [{containerPort: 80, hostPort: 65536}]",
            "spec.containers[0].ports[0].hostPort: 65536 is not between",
        ),
        (
            "",
            "ports: [{containerPort: 80, hostPort: 80, hostIP: nowhere}]",
            "spec.containers[0].ports[0].hostIP: \"nowhere\" is no IP address",
        ),
        (
            "",
            "ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}]",
            "spec.containers[0].ports[1].hostPort: 0.0.0.0:8080 is another port's",
        ),
        (
            "hostNetwork: true",
            "ports: [{containerPort: 80, hostPort: 8080}]",
            "spec.containers[0].ports[0].hostPort: with hostNetwork it is the containerPort, 80",
        ),
        (
            "restartPolicy: Perhaps",
            "",
            "spec.restartPolicy: \"Perhaps\" is none of",
        ),
        ("hostname: a.b", "", "spec.hostname: "),
        (
            "runtimeClassName: gvisor",
            "",
            "spec.runtimeClassName: \"gvisor\" is no runtime class",
        ),
        (
            "terminationGracePeriodSeconds: -1",
            "",
            "spec.terminationGracePeriodSeconds: -1 is not between 0",
        ),
        (
            "activeDeadlineSeconds: 0",
            "",
            "spec.activeDeadlineSeconds: 0 is not between 1",
        ),
        (
            "initContainers: [{name: c, image: b}]",
            "",
            "spec.containers[0].name: another container is called c",
        ),
        (
            "initContainers: [{name: i}]",
            "",
            "spec.initContainers[0].image: is missing",
        ),
        (
            "initContainers: [{name: i, image: 'A B'}]",
            "",
            "spec.initContainers[0].image: ",
        ),
        (
            "initContainers: [{name: _init, image: b}]",
            "",
            "spec.initContainers[0].name: ",
        ),
        (
            "initContainers: [{name: ../x, image: b}]",
            "",
            "spec.initContainers[0].name: ",
        ),
    ] {
        let error = error(spec, container);
        assert!(error.starts_with(message), "{error}\n  wanted {message}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}
