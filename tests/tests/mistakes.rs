//! Every mistake that a person makes in a manifest, the name of an image, an option, or for want of
//! a right: what is said, in one line, and the exit code.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use magikrun_tests::{BUSYBOX, Magikrun, binary, busybox_layout, isolated, without_place};

/// What a command answered: its exit code, and standard error without the lines' `magikrun: `.
fn answer(command: &mut Command) -> (i32, String, String) {
    let out = command.stdin(Stdio::null()).output().expect("magikrun");
    let text = String::from_utf8_lossy(&out.stderr);
    let lines = text.lines().map(|line| {
        line.strip_prefix("magikrun: ")
            .unwrap_or_else(|| panic!("{command:?}: not ours: {line:?}"))
    });
    let stderr = lines.collect::<Vec<_>>().join("\n");
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.code().unwrap_or(-1), stderr, stdout)
}

/// magikrun in a directory, with roots and a home there.
fn magikrun(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(binary());
    command
        .args(shlex::split(line).expect(line))
        .current_dir(dir)
        .env("HOME", dir)
        .env("MAGIKRUN_ROOT", dir.join("root"))
        .env("MAGIKRUN_STATE_DIR", dir.join("state"))
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("RUST_LOG");
    command
}

/// Rows that are not as the table says, all of them.
#[derive(Default)]
struct Differences(String);

impl Differences {
    fn compare(&mut self, row: &str, said: (i32, String, String), expected: (i32, &str)) {
        let (code, stderr, stdout) = said;
        if (code, stderr.as_str(), stdout.as_str()) != (expected.0, expected.1, "") {
            let (wanted, text) = expected;
            writeln!(
                self.0,
                "$ {row}\n  says {code} {stderr:?} {stdout:?}\nwanted {wanted} {text:?}"
            )
            .expect("a string");
        }
    }

    fn assert_none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

/// A pod of one container, with a line of `spec` and of the container.
fn manifest(spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  {spec}\n  containers:\n  - name: app\n    image: oci:nowhere\n    {container}\n"
    )
}

/// Compares what is said of manifests with a table of `PIECE => FIELD: MESSAGE`.
fn manifests(prefix: &str, table: &str, whole: impl Fn(&str) -> String) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut differences = Differences::default();
    for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (piece, message) = row.split_once(" => ").expect(row);
        fs::write(dir.path().join("pod.yaml"), whole(&piece.replace("\\n", "\n"))).expect("pod.yaml");
        let line = format!("pod.yaml: {prefix}{message}");
        for command in ["pod run -f pod.yaml", "pod validate -f pod.yaml"] {
            let (code, stderr, stdout) = answer(&mut magikrun(dir.path(), command));
            let said = (code, without_place(&stderr), stdout);
            differences.compare(piece, said, (1, &line));
        }
    }
    differences.assert_none();
    assert!(!dir.path().join("state/pods").exists(), "nothing was begun");
}

#[test]
fn in_a_manifest() {
    manifests(
        "",
        r#"
        just text => not a pod: it is a string; wanted is kind: Pod, apiVersion: v1
        [web] => not a pod: it is a list; wanted is kind: Pod, apiVersion: v1
        {metadata: {name: web}} => not a pod: it is an object without kind; wanted is kind: Pod, apiVersion: v1
        {kind: Pod} => not a pod: it is "Pod" without apiVersion; wanted is kind: Pod, apiVersion: v1
        {kind: Service, apiVersion: v1, metadata: {name: web}} => not a pod: there is only Service web; wanted is kind: Pod, apiVersion: v1, too
        {kind: NetworkPolicy, apiVersion: networking.k8s.io/v1} => not a pod: it is "NetworkPolicy" of "networking.k8s.io/v1"; wanted is kind: Pod, apiVersion: v1
        {kind: Deployment, apiVersion: apps/v1, metadata: {name: web}, spec: {}} => spec.template: is missing
        {kind: Deployment, apiVersion: apps/v1, metadata: {name: web}, spec: {replicas: 0, template: {spec: {containers: [{name: a, image: b}]}}}} => spec.replicas: 0 is not between 1 and 512
        {kind: Job, apiVersion: batch/v1, metadata: {name: web}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a}]}}}} => spec.template.spec.containers[0].image: is missing
        {kind: StatefulSet, apiVersion: apps/v1, metadata: {name: web}, spec: {volumeClaimTemplates: [], template: {spec: {containers: [{name: a, image: b}]}}}} => spec.volumeClaimTemplates: not supported: use an emptyDir or a hostPath in the template
        {kind: Pod, apiVersion: v1, metadata: {name: web}} => spec: is missing
        {kind: Pod, apiVersion: v1, spec: {containers: [{name: a, image: b}]}} => metadata.name: is missing
        {kind: Pod, apiVersion: v1, metadata: {name: Web}, spec: {containers: [{name: a, image: b}]}} => metadata.name: "Web" may hold only lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each dot
        {kind: Pod, apiVersion: v1, metadata: {name: web, namespace: my shop}, spec: {containers: [{name: a, image: b}]}} => metadata.namespace: "my shop" may hold only lower-case letters, digits and '-', with a letter or digit at both ends
        {kind: Pod, apiVersion: v1, metadata: {name: web, labels: {app: 1}}, spec: {containers: [{name: a, image: b}]}} => metadata.labels.app: is the number 1, and text is wanted: put it in quotes
        {kind: Pod, apiVersion: v1, metadata: {name: web, labels: {app: }}, spec: {containers: [{name: a, image: b}]}} => metadata.labels.app: is null, and text is wanted
        {kind: Pod, apiVersion: v1, metadata: {name: web, lables: {app: a}}, spec: {containers: [{name: a, image: b}]}} => metadata.lables: unknown field, did you mean labels?
        {kind: Pod, apiVersion: v1, metadata: {name: web, generateName: a}, spec: {containers: [{name: a, image: b}]}} => metadata.generateName: not supported: give a name
        {kind: Pod, apiVersion: v1, metadata: {name: web}, spec: {}} => spec.containers: a pod has at least one container: add one with name and image
        {kind: Pod, apiVersion: v1, metadata: {name: web}, spec: {container: [{name: a, image: b}]}} => spec.container: unknown field, did you mean containers?
        {kind: Pod, apiVersion: v1, metadata: {name: web}, spec: {containers: {name: a}}} => spec.containers: is an object, and a list is wanted
        "#,
        str::to_owned,
    );
}

#[test]
fn in_a_pod() {
    manifests(
        "spec.",
        r#"
        restartPolicy: never => restartPolicy: "never" is none of Always, OnFailure, Never
        nodeSelectr: {disk: ssd} => nodeSelectr: unknown field, did you mean nodeSelector?
        os: {name: windows} => os.name: not supported: "windows": containers are Linux's
        resourceClaims: [] => resourceClaims: not supported: remove them; devices are hostPath volumes of the type CharDevice
        volumes: [{name: data, nfs: {server: a, path: /b}}] => volumes[0].nfs: not supported: mount it on the host, and use a hostPath
        securityContext: {windowsOptions: {}} => securityContext.windowsOptions: not supported: containers are Linux's; remove it
        ephemeralContainers: [] => ephemeralContainers: not supported: remove them: a pod is created without; 'magikrun pod debug' adds one to a pod that runs
        dnsPolicy: Cluster => dnsPolicy: "Cluster" is none of ClusterFirst, ClusterFirstWithHostNet, Default, None
        dnsPolicy: None => dnsConfig.nameservers: must provide at least one DNS nameserver when dnsPolicy is None: add one
        dnsConfig: {nameservers: [dns.example]} => dnsConfig.nameservers[0]: "dns.example" is no IP address, such as 192.0.2.1
        dnsConfig: {nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4]} => dnsConfig.nameservers: 4 of them, at most 3 are allowed
        dnsConfig: {searches: ["a b"]} => dnsConfig.searches[0]: "a b" is no domain, such as example.com
        dnsConfig: {options: [{name: "a b"}]} => dnsConfig.options[0].name: must be 1 to 255 printable ASCII characters without spaces
        subdomain: a.b => subdomain: "a.b" may hold only lower-case letters, digits and '-', with a letter or digit at both ends
        imagePullSecrets: [a] => imagePullSecrets[0]: is a string, and an object is wanted
        imagePullSecrets: [{name: A}] => imagePullSecrets[0].name: "A" may hold only lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each dot
        shareProcessNamespace: true\n  hostPID: true => shareProcessNamespace: ShareProcessNamespace and HostPID cannot both be enabled: remove one
        hostUsers: false\n  hostIPC: true => hostIPC: cannot be true when hostUsers is false: remove one
        hostnameOverride: a_b => hostnameOverride: "a_b" may hold only lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each dot
        hostnameOverride: a\n  hostNetwork: true => hostnameOverride: the host's name is the pod's with hostNetwork: remove one of the two
        hostNetwork: "true" => hostNetwork: is the text "true", and true or false is wanted, without quotes
        hostnme: web => hostnme: unknown field, did you mean hostname?
        hostname: web_1 => hostname: "web_1" may hold only lower-case letters, digits and '-', with a letter or digit at both ends
        runtimeClassName: gvisor => runtimeClassName: "gvisor" is no runtime class: use native, microvm or wasm
        terminationGracePeriodSeconds: 30s => terminationGracePeriodSeconds: is the text "30s", and a whole number is wanted
        terminationGracePeriodSeconds: "30" => terminationGracePeriodSeconds: is the text "30", and a number is wanted: write 30, without quotes
        activeDeadlineSeconds: 0 => activeDeadlineSeconds: 0 is not between 1 and 2147483647
        volumes: [{name: data, configMap: {name: a}}] => volumes[0].configMap.name: no ConfigMap is called "a", there are none: give its manifest, too (-f takes several)
        volumes: [{name: data, secret: {secretName: a}}] => volumes[0].secret.secretName: no Secret is called "a", there are none: give its manifest, too (-f takes several)
        volumes: [{name: data, downwardAPI: {items: [{path: /a, fieldRef: {fieldPath: metadata.name}}]}}] => volumes[0].downwardAPI.items[0].path: "/a" must be relative to the volume
        volumes: [{name: data, downwardAPI: {items: [{path: ..data, fieldRef: {fieldPath: metadata.name}}]}}] => volumes[0].downwardAPI.items[0].path: "..data" must not begin with '..'
        volumes: [{name: data, projected: {defaultMode: 644}}] => volumes[0].projected.defaultMode: 644 is not between 0 and 511, which is 0777: write permissions as 0644
        volumes: [{name: data, projected: {sources: [{serviceAccountToken: {path: t}}]}}] => volumes[0].projected.sources[0].serviceAccountToken: not supported: there is no API server that gives tokens and certificates; remove it
        securityContext: {fsGroup: -1} => securityContext.fsGroup: -1 is not between 0 and 2147483647
        securityContext: {fsGroupChangePolicy: Never} => securityContext.fsGroupChangePolicy: "Never" is none of Always, OnRootMismatch
        securityContext: {sysctls: [{name: vm.swappiness, value: "1"}]} => securityContext.sysctls[0].name: vm.swappiness is the whole host's: only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* are a pod's own
        securityContext: {sysctls: [{name: net.core.somaxconn, value: "1"}]} => securityContext.sysctls[0].name: not supported: net.core.somaxconn is not one of Kubernetes' safe sysctls: add it to allowed-unsafe-sysctls in the configuration, or remove it
        securityContext: {sysctls: [{name: net..x, value: "1"}]} => securityContext.sysctls[0].name: "net..x" is no sysctl: write net.ipv4.tcp_syncookies or the like
        resources: {limits: {ephemeral-storage: 1Gi}} => resources.limits.ephemeral-storage: not supported: give each container its own
        volumes: [{name: data, persistentVolumeClaim: {}}] => volumes[0].persistentVolumeClaim.claimName: is missing
        volumes: [{name: data, persistentVolumeClaim: {claimName: ../a}}] => volumes[0].persistentVolumeClaim.claimName: "../a" may hold only lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each dot
        volumes: [{name: data, persistentVolumeClaim: {claimName: a}, emptyDir: {}}] => volumes[0]: is both emptyDir and persistentVolumeClaim: remove one
        volumes: [{name: data, image: {}}] => volumes[0].image.reference: is missing
        volumes: [{name: data, image: {reference: 'nginx:1', pullPolicy: allways}}] => volumes[0].image.pullPolicy: "allways" is none of Always, IfNotPresent, Never
        volumes: [{name: data, ephemeral: {}}] => volumes[0].ephemeral.volumeClaimTemplate: is missing
        volumes: [{name: data, ephemeral: {volumeClaimTemplate: {spec: {volumeMode: Block}}}}] => volumes[0].ephemeral.volumeClaimTemplate.spec.volumeMode: not supported: Block: volumes are directories; use Filesystem, or leave it out
        volumes: [{name: data}, {name: data}] => volumes[1].name: another volume is called data, too: give it another name
        volumes: [{name: data, hostPath: {path: ./data}}] => volumes[0].hostPath.path: "./data" must be absolute
        volumes: [{name: data, hostPath: {path: /data, type: Dir}}] => volumes[0].hostPath.type: "Dir" is none of Directory, DirectoryOrCreate, File, FileOrCreate, Socket, CharDevice, BlockDevice
        volumes: [{name: data, emptyDir: {sizeLimit: 0}}] => volumes[0].emptyDir.sizeLimit: must be more than 0; leave it out for no limit
        volumes: [{name: data, emptyDir: {sizeLimit: 1GB}}] => volumes[0].emptyDir.sizeLimit: "1GB" is no quantity: write 500m, 0.5, 64Mi or the like
        volumes: [{emptyDir: {}}] => volumes[0].name: is missing
        hostAliases: [{ip: localhost, hostnames: [a]}] => hostAliases[0].ip: "localhost" is no IP address, such as 192.0.2.1
        initContainers: [{name: app, image: b}] => containers[0].name: another container is called app, too: give it another name
        initContainers: [{name: init, image: b, restartPolicy: always}] => initContainers[0].restartPolicy: "always" is none of Always, OnFailure, Never
        initContainers: [{name: init, image: b, livenessProbe: {tcpSocket: {port: 1}}}] => initContainers[0].livenessProbe: an init container has none, unless it is a sidecar: restartPolicy: Always
        initContainers: [{name: init, image: b, lifecycle: {preStop: {sleep: {seconds: 1}}}}] => initContainers[0].lifecycle: an init container has none, unless it is a sidecar: restartPolicy: Always
        "#,
        |piece| manifest(piece, ""),
    );
}

#[test]
fn in_a_volume_mount() {
    manifests(
        "spec.containers[0].volumeMounts[0].",
        r#"
        subPath: /a => subPath: "/a" must be relative: it is a path in the volume
        subPath: a/../../b => subPath: "a/../../b" must not hold '..'
        subPath: 1 => subPath: is the number 1, and text is wanted: put it in quotes
        subPath: a, subPathExpr: b => subPathExpr: is there beside subPath: remove one
        subPathExpr: ../a => subPathExpr: "../a" must not hold '..'
        subPathExpr: $(NONE)/a => subPathExpr: the container's env has no "NONE", or it is empty
        subPathExpr: $(EMPTY) => subPathExpr: the container's env has no "EMPTY", or it is empty
        subPathExpr: a/$(UP) => subPathExpr: "a/.." must not hold '..'
        subPathExpr: $(ROOT) => subPathExpr: "/etc" must be relative: it is a path in the volume
        mountPropagation: Both => mountPropagation: "Both" is none of None, HostToContainer, Bidirectional
        mountPropagation: Bidirectional => mountPropagation: Bidirectional is for a container with securityContext.privileged: true; use HostToContainer
        recursiveReadOnly: Enabled => recursiveReadOnly: needs readOnly: true beside it
        readOnly: true, recursiveReadOnly: enabled => recursiveReadOnly: "enabled" is none of Disabled, IfPossible, Enabled
        readOnly: true, recursiveReadOnly: IfPossible, mountPropagation: HostToContainer => recursiveReadOnly: mounts that come later would not be read-only: remove mountPropagation
        bindMountOptions: [noexec] => bindMountOptions: not supported: remove them; volumes have the usual ones
        "#,
        |piece| {
            let env = "env: [{name: EMPTY, value: ''}, {name: UP, value: ..}, {name: ROOT, value: /etc}]";
            let mount = format!("volumeMounts: [{{name: v, mountPath: /v, {piece}}}]");
            manifest("volumes: [{name: v}]", &format!("{env}\n    {mount}"))
        },
    );
}

#[test]
fn in_a_container() {
    manifests(
        "spec.containers[0].",
        r#"
        imagePullPolicy: Allways => imagePullPolicy: "Allways" is none of Always, IfNotPresent, Never
        livenessProbe: {} => livenessProbe: does nothing: it has one of exec, httpGet, tcpSocket and grpc
        livenessProbe: {tcpSocket: {port: 1}, exec: {command: [a]}} => livenessProbe: has several of exec, httpGet, tcpSocket and grpc: keep one
        livenessProbe: {exec: {command: []}} => livenessProbe.exec.command: names no program
        livenessProbe: {exec: {command: cat /x}} => livenessProbe.exec.command: is a string, and a list is wanted: write ["cat /x"]
        livenessProbe: {tcpSocket: {port: http}} => livenessProbe.tcpSocket.port: no port of the container is called "http": name one in ports, or write its number
        livenessProbe: {tcpSocket: {port: 0}} => livenessProbe.tcpSocket.port: 0 is not between 1 and 65535
        livenessProbe: {tcpSocket: {}} => livenessProbe.tcpSocket.port: is missing
        livenessProbe: {tcpSocket: {port: 1, host: a b}} => livenessProbe.tcpSocket.host: "a b" is no address, such as 192.0.2.1; leave it out for the pod, and name a virtual host by a header Host
        livenessProbe: {httpGet: {port: 1, path: /a b}} => livenessProbe.httpGet.path: is no path of a URL: write what is not plain text as %20 and the like
        livenessProbe: {httpGet: {port: 1, scheme: http}} => livenessProbe.httpGet.scheme: "http" is none of HTTP, HTTPS
        livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: 'a b', value: c}]}} => livenessProbe.httpGet.httpHeaders[0].name: "a b" is no name of a header
        livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: a, value: "b\r\nc: d"}]}} => livenessProbe.httpGet.httpHeaders[0].value: is too long, or holds a line break or the like
        livenessProbe: {grpc: {port: 70000}} => livenessProbe.grpc.port: 70000 is not between 1 and 65535
        livenessProbe: {grpc: {port: 1, mode: tls}} => livenessProbe.grpc.mode: "tls" is none of Plaintext, TLS
        livenessProbe: {grpc: {port: grpc}} => livenessProbe.grpc.port: is the text "grpc", and a whole number is wanted
        livenessProbe: {tcpSocket: {port: 1}, periodSeconds: -1} => livenessProbe.periodSeconds: -1 is not between 1 and 2147483647
        livenessProbe: {tcpSocket: {port: 1}, initialDelaySeconds: -5} => livenessProbe.initialDelaySeconds: -5 is not between 0 and 2147483647
        livenessProbe: {tcpSocket: {port: 1}, timeoutSeconds: 1s} => livenessProbe.timeoutSeconds: is the text "1s", and a whole number is wanted
        livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2} => livenessProbe.successThreshold: must be 1: one good answer is enough here
        livenessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 0} => livenessProbe.terminationGracePeriodSeconds: 0 is not between 1 and 2147483647
        readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1} => readinessProbe.terminationGracePeriodSeconds: a readiness probe ends no container; remove it
        stdin: yes please => stdin: is the text "yes please", and true or false is wanted, without quotes
        resizePolicy: [{resourceName: disk, restartPolicy: NotRequired}] => resizePolicy[0].resourceName: "disk" is none of cpu, memory
        resizePolicy: [{resourceName: cpu, restartPolicy: Always}] => resizePolicy[0].restartPolicy: "Always" is none of NotRequired, RestartContainer
        terminationMessagePath: /var/log/ => terminationMessagePath: "/var/log/" is a directory: name a file, such as /dev/termination-log
        terminationMessagePath: ../log => terminationMessagePath: "/../log" must not hold '..'
        terminationMessagePath: /proc/self/log => terminationMessagePath: "/proc/self/log" is the kernel's: choose another file
        terminationMessagePath: 5 => terminationMessagePath: is the number 5, and text is wanted: put it in quotes
        terminationMessagePolicy: Log => terminationMessagePolicy: "Log" is none of File, FallbackToLogsOnError
        livenesProbe: {tcpSocket: {port: 1}} => livenesProbe: unknown field, did you mean livenessProbe?
        lifecycle: {preStop: {}} => lifecycle.preStop: does nothing: it has one of exec, httpGet and sleep
        lifecycle: {preStop: {tcpSocket: {port: 1}}} => lifecycle.preStop.tcpSocket: not supported: Kubernetes does nothing for it; use exec, httpGet or sleep
        lifecycle: {postStart: {sleep: {seconds: -1}}} => lifecycle.postStart.sleep.seconds: -1 is not between 0 and 2147483647
        lifecycle: {stopSignal: USR1} => lifecycle.stopSignal: "USR1" is no signal, such as SIGQUIT
        restartPolicy: Sometimes => restartPolicy: "Sometimes" is none of Always, OnFailure, Never
        restartPolicy: Never\n    restartPolicyRules: [{action: Stop, exitCodes: {operator: In, values: [1]}}] => restartPolicyRules[0].action: "Stop" is none of Restart, RestartAllContainers
        restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}] => restartPolicy: is missing: what restartPolicyRules say goes before it
        envFrom: [{configMapRef: {name: a}}] => envFrom[0].configMapRef.name: no ConfigMap is called "a", there are none: give its manifest, too (-f takes several)
        envFrom: [{}] => envFrom[0]: names no source: give configMapRef or secretRef
        command: nginx -g => command: is a string, and a list is wanted: write ["nginx -g"]
        args: [--port, 80] => args[1]: is the number 80, and text is wanted: put it in quotes
        env: {A: b} => env: is an object, and a list is wanted
        env: [{name: PORT, value: 80}] => env[0].value: is the number 80, and text is wanted: put it in quotes
        env: [{name: DEBUG, value: yes}] => env[0].value: is the boolean true, and text is wanted: put it in quotes
        env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}] => env[0].valueFrom.secretKeyRef.name: no Secret is called "a", there are none: give its manifest, too (-f takes several)
        env: [{name: A, valueFrom: {fileKeyRef: {volumeName: a}}}] => env[0].valueFrom.fileKeyRef: not supported: put the value into a ConfigMap, and use configMapKeyRef
        env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}] => env[0].valueFrom.fieldRef.fieldPath: all of them are for a file (a downwardAPI volume): add ['KEY'] for one
        env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, containerName: b}}}] => env[0].valueFrom.resourceFieldRef.containerName: no container is called "b": there is app
        env: [{name: A=B, value: c}] => env[0].name: "A=B" may hold only printable ASCII characters, and no '='
        workingDir: app => workingDir: "app" must be absolute
        ports: [{containerPort: "80"}] => ports[0].containerPort: is the text "80", and a number is wanted: write 80, without quotes
        ports: [{containerPort: 80800}] => ports[0].containerPort: 80800 is not between 1 and 65535
        ports: [{hostPort: 80}] => ports[0].containerPort: is missing
        ports: [{containerPort: 80, protocol: tcp}] => ports[0].protocol: "tcp" is none of TCP, UDP, SCTP
        ports: [{containerPort: 53, hostPort: 53, protocol: UDP}] => ports[0].hostPort: not supported: only TCP is forwarded; use hostNetwork
        ports: [{containerPort: 80, name: Web_Port}] => ports[0].name: "Web_Port" is no port name: at most 15 lower-case letters, digits and '-'
        ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}] => ports[1].hostPort: 0.0.0.0:8080 is another port's, too: choose another hostPort
        volumeMounts: [{name: data, mountPath: /data}] => volumeMounts[0].name: no volume of the pod is called "data": add it to spec.volumes
        resources: {limits: {memory: 64MB}} => resources.limits.memory: "64MB" is no quantity: write 500m, 0.5, 64Mi or the like
        resources: {limits: {memory: 64m}} => resources.limits.memory: 1 bytes, at least 1048576 are needed to start a program (m is a thousandth, Mi is MiB)
        resources: {limits: {cpu: 0}} => resources.limits.cpu: must be more than 0; leave it out for no limit
        resources: {limits: {cpu: 1}, requests: {cpu: 2}} => resources.requests.cpu: must not be more than the limit
        resources: {limits: {nvidia.com/gpu: 1}} => resources.limits.nvidia.com/gpu: not supported: there is no such device; devices are hostPath volumes of the type CharDevice
        resources: {limits: {hugepages-2Mi: 3Mi, cpu: 1}} => resources.limits.hugepages-2Mi: 3145728 bytes are no whole number of pages of 2097152
        resources: {limits: {hugepages-2Mi: 2Mi}} => resources: HugePages require cpu or memory: request or limit one of them, too
        securityContext: {runAsUser: root} => securityContext.runAsUser: is the text "root", and a whole number is wanted
        securityContext: {runAsNonRoot: true, runAsUser: 0} => securityContext.runAsUser: container's runAsUser breaks non-root policy: 0 is root, choose another user
        securityContext: {runAsGroup: 100} => securityContext.runAsGroup: needs runAsUser, too: set it
        securityContext: {capabilities: {add: [net admin]}} => securityContext.capabilities.add[0]: is no capability: write NET_ADMIN, ALL or the like
        securityContext: {seccompProfile: {type: Default}} => securityContext.seccompProfile.type: "Default" is none of RuntimeDefault, Unconfined, Localhost
        "#,
        |piece| manifest("", piece),
    );
    manifests(
        "spec.containers[0].image: ",
        r#"
        BAD/Image => image name "BAD/Image": the repository must be lower case
        "nginx:" => image name "nginx:": "" is not a tag: at most 128 letters, digits, '_', '.' and '-', the first no '.' or '-'
        "" => is missing: name one, such as docker.io/library/nginx:1.27
        "oci:" => image source "oci:" has no path: write oci:PATH
        "#,
        |image| manifest("", "").replace("oci:nowhere", image),
    );
}

/// `$ COMMAND`, then the exit code and the line.
fn commands(dir: &Path, table: &str, run: impl Fn(&str) -> Command) {
    let mut differences = Differences::default();
    let mut rows = table.lines().map(str::trim).filter(|row| !row.is_empty());
    while let (Some(command), Some(expected)) = (rows.next(), rows.next()) {
        let command = command.strip_prefix("$ ").expect(command);
        let (code, line) = expected.split_once(' ').expect(expected);
        let line = line.replace("{dir}", &dir.display().to_string());
        let said = answer(&mut run(command));
        differences.compare(command, said, (code.parse().expect(expected), &line));
    }
    differences.assert_none();
}

#[test]
fn on_the_command_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path();
    fs::write(path.join("pod.yaml"), manifest("", "")).expect("pod.yaml");
    fs::write(path.join("text"), "hello").expect("text");
    fs::write(path.join("binary"), b"\xff\xfe").expect("binary");
    let large = fs::File::create(path.join("large")).expect("large");
    large.set_len((16 << 20) + 1).expect("large");
    fs::create_dir(path.join("dir")).expect("dir");
    commands(path, COMMANDS, |line| magikrun(path, line));
}

const COMMANDS: &str = r#"
    $ pod run -f missing.yaml
    1 missing.yaml: there is no such file: give the path of a manifest, or - for stdin
    $ pod validate -f dir
    1 dir: is a directory without a manifest (*.yaml, *.yml, *.json): give one that has some
    $ pod run -f binary
    1 binary: is no text in UTF-8: give a Kubernetes v1 Pod
    $ pod run -f large
    1 large: larger than 16 MiB, which no manifest may be: give a Kubernetes v1 Pod
    $ pod run --wait -f missing.yaml
    125 missing.yaml: there is no such file: give the path of a manifest, or - for stdin
    $ pod run -f pod.yaml
    1 pod default/web: step images: container app: image oci:nowhere: nowhere: not an OCI image layout: it has no file "oci-layout"
    $ pod run -f
    2 a value is required for '--file <FILE>' but none was supplied: see 'magikrun pod run --help'
    $ pod run -f pod.yaml --pull-timeout soon
    2 invalid value 'soon' for '--pull-timeout <SECONDS>': give a whole number: see 'magikrun pod run --help'
    $ pod run -f pod.yaml --max-layer-size huge
    2 invalid value 'huge' for '--max-layer-size <SIZE>': "huge" is no quantity: write 500m, 0.5, 64Mi or the like: see 'magikrun pod run --help'
    $ pod run -f pod.yaml --pull sometimes
    2 invalid value 'sometimes' for '--pull <always|missing|never>' [possible values: always, missing, never]: see 'magikrun pod run --help'
    $ pod run -f pod.yaml -n Shop
    2 invalid value 'Shop' for '--namespace <NAMESPACE>': "Shop" may hold only lower-case letters, digits and '-', with a letter or digit at both ends: see 'magikrun pod run --help'
    $ pod validate
    2 the following required arguments were not provided: --file <FILE>: see 'magikrun pod validate --help'
    $ pod ls -l 'app in (web)'
    2 invalid value 'app in (web)' for '--selector <LABELS>': "app in (web)" selects no label: write app=web, app!=web, app or !app: see 'magikrun pod ls --help'
    $ pod ls -q -o json
    2 the argument '--quiet' cannot be used with '--format <FORMAT>': see 'magikrun pod ls --help'
    $ pod ls -A -n shop
    2 the argument '--all-namespaces' cannot be used with '--namespace <NAMESPACE>': see 'magikrun pod ls --help'
    $ pod logs web
    1 pod web does not exist: see 'magikrun pod ls'
    $ pod status a/b/c
    1 pod a/b/c does not exist: see 'magikrun pod ls'
    $ pod logs --tail ten web
    2 invalid value 'ten' for '--tail <N>': give a whole number: see 'magikrun pod logs --help'
    $ pod logs -c app --all-containers web
    2 the argument '--container <NAME>' cannot be used with '--all-containers': see 'magikrun pod logs --help'
    $ pod exec web -- true
    125 pod web does not exist: see 'magikrun pod ls'
    $ pod exec -e NOVALUE web -- true
    2 invalid value 'NOVALUE' for '--env <NAME=VALUE>': give it as NAME=VALUE: see 'magikrun pod exec --help'
    $ pod stop -t soon web
    2 invalid value 'soon' for '--time <SECONDS>': give a whole number: see 'magikrun pod stop --help'
    $ pod delete -f web
    1 web: is no file: -f names a manifest; to kill and delete a pod give 'pod delete --force web'
    $ pod port-forward web http
    2 invalid value 'http' for '<[LOCAL:]REMOTE>...': "http" is no port: use a number from 1 to 65535: see 'magikrun pod port-forward --help'
    $ pod delet web
    2 unrecognized subcommand 'delet'; some similar subcommands exist: 'events', 'delete': see 'magikrun pod --help'
    $ imgae ls
    2 unrecognized subcommand 'imgae'; a similar subcommand exists: 'image': see 'magikrun --help'
    $ --log-level loud pod ls
    2 invalid value 'loud' for '--log-level <LEVEL>': error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5: see 'magikrun pod ls --help'
    $ --root text pod ls
    1 create {dir}/text: File exists (os error 17): choose another path, or remove that one
    $ --root text/x image ls
    1 create {dir}/text/x: Not a directory (os error 20): a part of the path is a file, choose another one
    $ image pull ''
    2 invalid value '' for '<SOURCE>...': image name is empty: give one, such as nginx:1.27: see 'magikrun image pull --help'
    $ image pull https://docker.io/nginx
    2 invalid value 'https://docker.io/nginx' for '<SOURCE>...': image name "https://docker.io/nginx": "https:" is not a registry's host name: write a name as localhost:5000/app:1, without http://: see 'magikrun image pull --help'
    $ image pull 'nginx:a b'
    2 invalid value 'nginx:a b' for '<SOURCE>...': image name "nginx:a b": "a b" is not a tag: at most 128 letters, digits, '_', '.' and '-', the first no '.' or '-': see 'magikrun image pull --help'
    $ image pull nginx@sha256:12
    2 invalid value 'nginx@sha256:12' for '<SOURCE>...': image name "nginx@sha256:12": digest "sha256:12": 64 lower-case hexadecimal digits must follow the colon: see 'magikrun image pull --help'
    $ image pull a//b
    2 invalid value 'a//b' for '<SOURCE>...': image name "a//b": "" is not a repository name: lower-case letters and digits, joined by '.', '_', '__' or dashes: see 'magikrun image pull --help'
    $ image pull --platform linux nginx
    2 invalid value 'linux' for '--platform <OS/ARCH[/VARIANT]>': "linux" is not a platform: write OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm/v7: see 'magikrun image pull --help'
    $ image pull 127.0.0.1:1/none:1
    1 127.0.0.1:1/none:1: registry 127.0.0.1:1: manifest 1: client error (Connect): tcp connect error: Connection refused (os error 111): check the registry's name and port, and the network
    $ image pull oci:text
    1 text: not an OCI image layout: it has no file "oci-layout"
    $ image pull oci-archive:text
    1 text: not a readable tar archive: ends in the middle of a block
    $ image pull docker-archive:missing.tar
    1 open missing.tar: No such file or directory (os error 2): check the path
    $ image pull --cert-dir missing 127.0.0.1:1/a
    1 127.0.0.1:1/a:latest: registry 127.0.0.1:1: set up: certificates missing: No such file or directory (os error 2): check --cert-dir and certs.d
    $ image pull --signature-policy missing.json oci:dir
    1 signature policy missing.json: does not exist: mend it, or give another with --signature-policy
    $ image inspect nginx
    1 image nginx is not in the store: pull or load it first
    $ image load -i missing.tar
    1 missing.tar: there is no such file: 'magikrun image pull missing.tar' takes an image of that name from a registry
    $ image save --type zip -o x nginx
    2 invalid value 'zip' for '--type <TYPE>' [possible values: oci-archive, docker-archive, oci-dir]: see 'magikrun image save --help'
    $ image tag nginx Bad
    2 invalid value 'Bad' for '<NAME>': image name "Bad": the repository must be lower case: see 'magikrun image tag --help'
    $ system info -o xml
    2 invalid value 'xml' for '--format <FORMAT>' [possible values: table, json, yaml]; a similar value exists: 'yaml': see 'magikrun system info --help'
"#;

/// What needs a right that the user has not.
const RIGHTS: &str = r#"
    $ pod run -f secret.yaml
    1 secret.yaml: you may not read it: 'ls -l' shows who may
    $ pod validate -f secret.yaml
    1 secret.yaml: you may not read it: 'ls -l' shows who may
    $ pod run -f pod.yaml
    1 pod default/web: step validate: native pods need root: become root, or run WebAssembly (runtimeClassName: wasm)
    $ pod run --runtime microvm -f pod.yaml
    1 pod default/web: step validate: microvm pods need root: become root, or run WebAssembly (runtimeClassName: wasm)
    $ --root locked image ls
    1 open {dir}/locked: Permission denied (os error 13): this takes root, or rights to that file
    $ --root locked/x image ls
    1 create {dir}/locked/x: Permission denied (os error 13): this takes root, or rights to that file
    $ --state-dir locked/x pod ls
    1 create {dir}/locked/x: Permission denied (os error 13): this takes root, or rights to that file
    $ --root /var/lib/magikrun-of-nobody image ls
    1 create /var/lib/magikrun-of-nobody: Permission denied (os error 13): this takes root, or rights to that file
    $ image load -i secret.yaml
    1 read secret.yaml: Permission denied (os error 13): this takes root, or rights to that file
    $ image pull oci-archive:secret.yaml
    1 open secret.yaml: Permission denied (os error 13): this takes root, or rights to that file
    $ image pull --signature-policy secret.yaml oci:locked
    1 signature policy secret.yaml: Permission denied (os error 13): mend it, or give another with --signature-policy
    $ image pull --cert-dir locked 127.0.0.1:1/a
    1 127.0.0.1:1/a:latest: registry 127.0.0.1:1: set up: certificates locked: Permission denied (os error 13): check --cert-dir and certs.d
    $ image unpack localhost/busybox:1 locked/rootfs
    1 locked/rootfs: Permission denied (os error 13): this takes root, or rights to that file
    $ image bundle localhost/busybox:1 locked/bundle
    1 locked/bundle: Permission denied (os error 13): this takes root, or rights to that file
"#;

isolated!(
    fn for_want_of_a_right(scene) {
        let dir = scene.dir();
        fs::create_dir(dir.join("locked")).expect("locked");
        fs::write(dir.join("secret.yaml"), manifest("", "")).expect("secret.yaml");
        for private in ["locked", "secret.yaml"] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(dir.join(private), mode).expect("chmod");
        }
        let layout = busybox_layout(&dir.join("layout")).reference(BUSYBOX);
        let busybox = manifest("", "").replace("oci:nowhere", BUSYBOX);
        fs::write(dir.join("pod.yaml"), busybox).expect("pod.yaml");
        scene.become_user(1000);
        let pulled = answer(&mut magikrun(dir, &format!("image pull -q {layout}")));
        assert_eq!(pulled.0, 0, "{pulled:?}");
        commands(dir, RIGHTS, |line| magikrun(dir, line));
    }
);

isolated!(
    fn several_at_once(scene) {
        let magikrun = Magikrun::new(scene);
        let file = magikrun.manifest(manifest("hostname: A", "workingDir: b\n    livenessProbe: {}"));
        let good = magikrun.manifest(manifest("", ""));
        let expected = [
            "6:3: spec.hostname: \"A\" may hold only lower-case letters, digits and '-', with a letter or digit at both ends",
            "10:5: spec.containers[0].workingDir: \"b\" must be absolute",
            "11:5: spec.containers[0].livenessProbe: does nothing: it has one of exec, httpGet, tcpSocket and grpc",
        ];
        let lines: String = expected.map(|line| format!("magikrun: {file}:{line}\n")).concat();
        for (command, code) in [(&["run"][..], 1), (&["run", "--wait"], 125), (&["validate"], 1)] {
            let out = magikrun.run(&[&["pod"], command, &["-f", &file]].concat());
            assert_eq!((out.code, out.stderr.as_str(), out.stdout.as_str()), (code, lines.as_str(), ""), "{command:?}");
        }
        // To delete a pod its name is enough.
        let out = magikrun.run(&["pod", "delete", "-f", &file]);
        assert_eq!(out.stderr, "magikrun: pod default/web does not exist: see 'magikrun pod ls'\n");
        // What is right is said of each file; all of it as JSON.
        let out = magikrun.run(&["pod", "validate", "-f", &good, "-f", &file]);
        assert_eq!((out.code, out.stdout), (1, format!("{good}: pod default/web: valid\n")));
        assert_eq!(out.stderr, format!("magikrun: {good}: note: its runtime class is native\n{lines}"));
        let out = magikrun.run(&["pod", "validate", "-o", "json", "-f", &good, "-f", &file]);
        assert_eq!((out.code, out.stderr.as_str()), (1, ""));
        let reports: serde_json::Value = serde_json::from_str(&out.stdout).expect("JSON");
        assert_eq!(reports[0]["pod"], "default/web");
        assert_eq!(reports[0]["runtimeClass"], "native");
        assert_eq!(reports[0]["errors"], serde_json::json!([]));
        assert_eq!(reports[1]["file"], file.as_str());
        assert_eq!(reports[1]["errors"][1]["field"], "spec.containers[0].workingDir");
        assert_eq!((&reports[1]["errors"][1]["line"], &reports[1]["errors"][1]["column"]), (&10.into(), &5.into()));
        assert_eq!(reports[1]["errors"][1]["message"], "\"b\" must be absolute");
        // What the backend cannot honour is in the manifest, too.
        let wasm = magikrun.manifest(manifest("runtimeClassName: wasm", "resources: {limits: {cpu: 1}}\n    securityContext: {runAsUser: 1, privileged: true}"));
        for command in ["run", "validate"] {
            let out = magikrun.run(&["pod", command, "-f", &wasm]);
            assert_eq!((out.code, out.stderr.lines().count()), (1, 3), "{}", out.stderr);
            assert!(out.stderr.lines().all(|line| line.starts_with(&format!("magikrun: {wasm}: spec.containers[0]."))), "{}", out.stderr);
        }
        // A manifest of nothing but mistakes ends after twenty.
        let fields: String = (0..5000).map(|n| format!("f{n}: 1, ")).collect();
        let many = magikrun.manifest(format!("{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{{fields}}}}}"));
        let out = magikrun.run(&["pod", "validate", "-f", &many]);
        let lines: Vec<&str> = out.stderr.lines().collect();
        assert_eq!(lines.len(), 21, "{}", out.stderr);
        assert_eq!(lines[20], format!("magikrun: {many}: and 4981 more"));
        let notes = magikrun.manifest(manifest("volumes: [{name: unused}]", "env: [{name: A, value: b}, {name: A, value: c}]"));
        let report = magikrun.json(&["pod", "validate", "-f", &notes]);
        let ignored = report[0]["ignored"].as_array().expect("a list").iter();
        let fields: Vec<_> = ignored.map(|ignored| ignored["field"].clone()).collect();
        assert_eq!(fields, ["spec.containers[0].env[0]", "spec.volumes[0]"]);
    }
);
