//! Values that are wrong.

use super::*;

#[test]
fn wrong_values_are_named_by_path() {
    refused_in_pod(
        r#"
        hostNetwork: 3 => hostNetwork: is the number 3, and true or false is wanted
        volumes: [{name: v}, {name: v}] => volumes[1].name: another volume is called v
        volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}] => volumes[0]: is both
        volumes: [{name: v, hostPath: {path: tmp}}] => volumes[0].hostPath.path: "tmp" must be absolute
        volumes: [{name: v, hostPath: {path: /a/../b}}] => volumes[0].hostPath.path: "/a/../b" must not hold '..'
        volumes: [{name: v, hostPath: {path: /, type: Dir}}] => volumes[0].hostPath.type: "Dir" is none of
        restartPolicy: Perhaps => restartPolicy: "Perhaps" is none of
        hostname: a.b => hostname:
        runtimeClassName: gvisor => runtimeClassName: "gvisor" is no runtime class
        terminationGracePeriodSeconds: -1 => terminationGracePeriodSeconds: -1 is not between 0
        activeDeadlineSeconds: 0 => activeDeadlineSeconds: 0 is not between 1
        initContainers: [{name: c, image: b}] => containers[0].name: another container is called c
        initContainers: [{name: i}] => initContainers[0].image: is missing
        initContainers: [{name: i, image: 'A B'}] => initContainers[0].image:
        initContainers: [{name: _init, image: b}] => initContainers[0].name:
        initContainers: [{name: ../x, image: b}] => initContainers[0].name:
        "#,
    );
    refused_in_container(
        r#"
        env: [{name: A, value: 8080}] => env[0].value: is the number 8080, and text is wanted: put it in quotes
        env: {A: b} => env: is an object, and a list is wanted
        env: [A] => env[0]: is a string, and an object is wanted
        env: [{name: A=B, value: x}] => env[0].name:
        command: sh => command: is a string, and a list is wanted: write ["sh"]
        workingDir: srv => workingDir: "srv" must be absolute
        imagePullPolicy: Sometimes => imagePullPolicy: "Sometimes" is none of
        resources: {limits: {memory: 128m}} => resources.limits.memory: 1 bytes, at least
        resources: {limits: {memory: lots}} => resources.limits.memory: "lots" is no quantity
        resources: {limits: {cpu: 0}} => resources.limits.cpu: must be more than 0
        resources: {limits: {cpu: -1}} => resources.limits.cpu: -1 is negative
        resources: {limits: {cpu: 1}, requests: {cpu: 2}} => resources.requests.cpu: must not be more
        securityContext: {runAsUser: -1} => securityContext.runAsUser: -1 is not between
        securityContext: {runAsGroup: 1} => securityContext.runAsGroup: needs runAsUser
        securityContext: {capabilities: {add: [A-B]}} => securityContext.capabilities.add[0]:
        volumeMounts: [{name: v, mountPath: /v}] => volumeMounts[0].name: no volume of the pod is called "v"
        ports: [{containerPort: 0}] => ports[0].containerPort: 0 is not between
        ports: [{containerPort: 65536}] => ports[0].containerPort: 65536 is not between
        ports: [{containerPort: 80, protocol: tcp}] => ports[0].protocol: "tcp" is none of
        ports: [{containerPort: 80, hostPort: 65536}] => ports[0].hostPort: 65536 is not between
        ports: [{containerPort: 80, hostPort: 80, hostIP: nowhere}] => ports[0].hostIP: "nowhere" is no IP address
        ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}] => ports[1].hostPort: 0.0.0.0:8080 is another port's
        "#,
    );
    let with_volume = |mounts: &str| error("volumes: [{name: v}]", mounts);
    refused(
        "spec.containers[0].",
        r#"
        volumeMounts: [{name: v, mountPath: /}] => volumeMounts[0].mountPath: must not be /
        volumeMounts: [{name: v, mountPath: v}] => volumeMounts[0].mountPath: "v" must be absolute
        volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v/}] => volumeMounts[1].mountPath: /v is mounted on twice
        "#,
        with_volume,
    );
    refused(
        "spec.containers[0].",
        "ports: [{containerPort: 80, hostPort: 8080}] => ports[0].hostPort: with hostNetwork it is the containerPort, 80",
        |ports| error("hostNetwork: true", ports),
    );
}
