//! Variables: where they come from, and how commands see them.

use super::*;

const DATA: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {MODE: fast, lower.case-key: x, '1st': one}
binaryData: {BLOB: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
data: {password: aHVudGVyMg==}
stringData: {user: admin}
";

/// A pod of one container beside [`DATA`].
fn with_data(spec: &str, container: &str) -> String {
    format!("{}{DATA}", manifest(spec, container))
}

fn env(spec: &str, container: &str) -> Vec<(String, String)> {
    let text = with_data(spec, container);
    let pod = PodSpec::from_yaml(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    bound(&pod, "c").env
}

fn value(spec: &str, container: &str, name: &str) -> Option<String> {
    let env = env(spec, container);
    env.into_iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}

#[test]
fn variables_come_from_config_maps_and_secrets() {
    let from = "env:
- {name: A, valueFrom: {configMapKeyRef: {name: settings, key: MODE}}}
- {name: B, valueFrom: {secretKeyRef: {name: login, key: password}}}
- {name: C, valueFrom: {secretKeyRef: {name: login, key: user}}}
- {name: D, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}
- {name: E, valueFrom: {secretKeyRef: {name: none, key: none, optional: true}}}
- {name: F, value: '$(C):$(B)@$(A) $(D) $$(A)'}";
    let expected = [
        ("A", "fast"),
        ("B", "hunter2"),
        ("C", "admin"),
        ("F", "admin:hunter2@fast $(D) $(A)"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(env("", from), expected);
}

#[test]
fn all_keys_are_variables_with_a_prefix_and_env_goes_before_them() {
    let from = "envFrom:
- configMapRef: {name: settings}
- {prefix: S_, secretRef: {name: login}}
- {configMapRef: {name: none, optional: true}}
env: [{name: MODE, value: 'slow'}, {name: BOTH, value: '$(MODE) $(S_user)'}]
args: ['$(S_password)', '$(lower.case-key)']";
    let env = env("", from);
    let names: Vec<_> = env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["1st", "MODE", "lower.case-key", "S_password", "S_user", "BOTH"]
    );
    assert_eq!(value("", from, "MODE").unwrap(), "slow");
    assert_eq!(value("", from, "BOTH").unwrap(), "slow admin");
    let pod = PodSpec::from_yaml(&with_data("", from)).unwrap();
    assert_eq!(bound(&pod, "c").args.unwrap(), ["hunter2", "x"]);
}

#[test]
fn variables_come_from_the_pod_itself() {
    let field = |path: &str| {
        let container = format!("env: [{{name: X, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]");
        let text = manifest("hostname: h", &container)
            .replace("name: p\n", "name: p\n  namespace: shop\n  labels: {app.kubernetes.io/name: web}\n  annotations: {note: 'a b'}\n");
        let pod = PodSpec::from_yaml(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        bound(&pod, "c").env.remove(0).1
    };
    assert_eq!(field("metadata.name"), "p");
    assert_eq!(field("metadata.namespace"), "shop");
    assert_eq!(field("metadata.uid"), "0123456789abcdef01234567");
    assert_eq!(field("metadata.labels['app.kubernetes.io/name']"), "web");
    assert_eq!(field("metadata.labels['none']"), "");
    assert_eq!(field("metadata.annotations['note']"), "a b");
    assert_eq!(field("spec.serviceAccountName"), "default");
    assert_eq!(field("status.podIP"), "127.0.0.1");
    assert_eq!(field("status.podIPs"), "127.0.0.1");
    assert!(!field("spec.nodeName").is_empty());
    assert!(field("status.hostIP").parse::<std::net::IpAddr>().is_ok());
    assert!(field("status.hostIPs").starts_with(&field("status.hostIP")));
    // With the host's network it is the host's address.
    let host = "env: [{name: X, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: Z, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]";
    assert_eq!(
        value("hostNetwork: true", host, "X"),
        value("hostNetwork: true", host, "Z")
    );
}

#[test]
fn variables_tell_of_resources_in_the_unit_that_is_asked_for() {
    let resource = |resources: &str, reference: &str| {
        let container = format!(
            "resources: {resources}\nenv: [{{name: X, valueFrom: {{resourceFieldRef: {reference}}}}}]"
        );
        value(
            "initContainers: [{name: i, image: b, resources: {limits: {cpu: 3}}}]",
            &container,
            "X",
        )
        .unwrap()
    };
    let limited = "{limits: {cpu: 1500m, memory: 100Mi}, requests: {memory: 1G}}";
    let limited = limited.replace("1G", "10M");
    assert_eq!(resource(&limited, "{resource: limits.cpu}"), "2");
    assert_eq!(resource(&limited, "{resource: limits.cpu, divisor: 1m}"), "1500");
    assert_eq!(resource(&limited, "{resource: limits.memory}"), "104857600");
    assert_eq!(
        resource(&limited, "{resource: limits.memory, divisor: 1Mi}"),
        "100"
    );
    assert_eq!(
        resource(&limited, "{resource: limits.memory, divisor: 1M}"),
        "105"
    );
    assert_eq!(resource(&limited, "{resource: limits.memory, divisor: 1Ei}"), "1");
    assert_eq!(
        resource(&limited, "{resource: requests.memory, divisor: '0'}"),
        "10000000"
    );
    // What is not asked for is the limit, and what is not limited is what the host has.
    assert_eq!(
        resource(&limited, "{resource: requests.cpu, divisor: 1m}"),
        "1500"
    );
    assert_eq!(resource("{}", "{resource: requests.cpu}"), "0");
    assert_eq!(resource("{}", "{resource: limits.cpu, containerName: i}"), "3");
    let cpus: u64 = resource("{}", "{resource: limits.cpu}").parse().unwrap();
    let memory: u64 = resource("{}", "{resource: limits.memory}").parse().unwrap();
    assert!(cpus >= 1 && memory > 1 << 20, "{cpus} {memory}");
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let error = |container: &str| {
        PodSpec::from_yaml(&with_data("", container))
            .unwrap_err()
            .to_string()
    };
    refused(
        "spec.containers[0].",
        r#"
        env: [{name: A, valueFrom: {configMapKeyRef: {name: setings, key: MODE}}}] => env[0].valueFrom.configMapKeyRef.name: no ConfigMap is called "setings": there is settings
        env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: mode}}}] => env[0].valueFrom.configMapKeyRef.key: ConfigMap settings has no key "mode": it has 1st, BLOB, MODE, lower.case-key
        env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: BLOB}}}] => env[0].valueFrom.configMapKeyRef.key: BLOB is in binaryData, of which no variables are made
        env: [{name: A, valueFrom: {secretKeyRef: {name: settings, key: MODE}}}] => env[0].valueFrom.secretKeyRef.name: no Secret is called "settings": there is login
        env: [{name: A, valueFrom: {secretKeyRef: {name: login}}}] => env[0].valueFrom.secretKeyRef.key: is missing
        env: [{name: A, valueFrom: {}}] => env[0].valueFrom: names no source: give configMapKeyRef, fieldRef
        env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}] => env[0]: has both value and valueFrom
        env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}, secretKeyRef: {name: login, key: user}}}] => env[0].valueFrom: names more than one source
        env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostname}}}] => env[0].valueFrom.fieldRef.fieldPath: "spec.hostname" is none of metadata.name
        env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}] => env[0].valueFrom.fieldRef.fieldPath: all of them are for a file
        env: [{name: A, valueFrom: {fieldRef: {fieldPath: "metadata.labels['a b']"}}}] => env[0].valueFrom.fieldRef.fieldPath: "a b" may hold
        env: [{name: A, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}] => env[0].valueFrom.fieldRef.apiVersion: "v2" is not v1
        env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}] => env[0].valueFrom.resourceFieldRef.resource: "limits.gpu" is none of limits.cpu
        env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, containerName: d}}}] => env[0].valueFrom.resourceFieldRef.containerName: no container is called "d": there is c
        env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 2}}}] => env[0].valueFrom.resourceFieldRef.divisor: "2" is none of 1m, 1
        env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: -1}}}] => env[0].valueFrom.resourceFieldRef.divisor: -1 is negative
        envFrom: [{configMapRef: {name: none}}] => envFrom[0].configMapRef.name: no ConfigMap is called "none": there is settings
        envFrom: [{}] => envFrom[0]: names no source
        envFrom: [{prefix: 'a=', secretRef: {name: login}}] => envFrom[0].prefix: "a=" may hold only printable ASCII
        envFrom: [{configMapRef: {}}] => envFrom[0].configMapRef.name: is missing
        "#,
        error,
    );
    let alone = manifest("", "envFrom: [{secretRef: {name: login}}]");
    let said = PodSpec::from_yaml(&alone).unwrap_err().to_string();
    assert_eq!(
        said,
        "spec.containers[0].envFrom[0].secretRef.name: no Secret is called \"login\", there are none: give its manifest, too (-f takes several)"
    );
}

#[test]
fn bytes_that_no_variable_can_have_are_refused_without_being_shown() {
    for encoded in ["/w==", "YQBi"] {
        let secret =
            format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{k: {encoded}}}\n");
        for reference in [
            "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
            "envFrom: [{secretRef: {name: s}}]",
        ] {
            let text = format!("{}{secret}", manifest("", reference));
            let said = PodSpec::from_yaml(&text).unwrap_err().to_string();
            assert!(said.contains("k holds bytes that no variable can have"), "{said}");
        }
    }
}

#[test]
fn variables_of_objects_count_and_cycles_end() {
    let large = "x".repeat((1 << 20) - 100);
    let map = format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{K: {large}}}\n");
    let one = format!("{}{map}", manifest("", "envFrom: [{configMapRef: {name: m}}]"));
    assert!(PodSpec::from_yaml(&one).is_ok());
    let two = "envFrom: [{configMapRef: {name: m}}, {prefix: A, configMapRef: {name: m}}]";
    let said = PodSpec::from_yaml(&format!("{}{map}", manifest("", two)))
        .unwrap_err()
        .to_string();
    assert!(
        said.starts_with("spec.containers[0].envFrom[1]: has more than"),
        "{said}"
    );
    let again = "envFrom: [{configMapRef: {name: m}}]\nargs: ['$(K)']";
    let said = PodSpec::from_yaml(&format!("{}{map}", manifest("", again)))
        .unwrap_err()
        .to_string();
    assert!(
        said.starts_with("spec.containers[0].args[0]: is too long"),
        "{said}"
    );
    // Only what stands above is known: of a cycle something stays as it is written.
    let cycle = "env: [{name: A, value: '$(B)'}, {name: B, value: '$(A)'}, {name: B, value: '$(B)!'}]";
    assert_eq!(value("", cycle, "A").unwrap(), "$(B)");
    assert_eq!(value("", cycle, "B").unwrap(), "$(B)!");
}

#[test]
fn what_a_pod_was_run_with_is_written_without_data() {
    let text = with_data("", "envFrom: [{secretRef: {name: login}}]");
    let pod = PodSpec::from_yaml(&text).unwrap();
    assert!(pod.data.get(DataKind::Secret, "login").is_some());
    assert!(
        pod.data.get(DataKind::ConfigMap, "settings").is_none(),
        "it refers to the other only"
    );
    let written = serde_json::to_string(&pod).unwrap();
    assert!(
        written.contains("login") && !written.contains("hunter2") && !written.contains("admin"),
        "{written}"
    );
    let shown = format!("{pod:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("admin"), "{shown}");
    let read: PodSpec = serde_json::from_str(&written).unwrap();
    assert_eq!(read.containers, pod.containers);
}
