//! All mistakes of a manifest at once.

use super::*;
use crate::limits::MAX_SPEC_ERRORS;

fn lines(text: &str) -> Vec<String> {
    let errors = PodSpec::from_yaml(text).unwrap_err();
    errors.errors().iter().map(ToString::to_string).collect()
}

#[test]
fn all_mistakes_are_named_in_the_order_of_the_text() {
    let text = r#"
kind: Pod
spec:
  containers:
  - name: web
    image: nginx:1.27
    env:
    - {name: PORT, value: 8080}
    - {name: DEBUG, value: true}
    args: [-p, 80]
    ports:
    - {containerPort: "80"}
    - {containerPort: 99999999999}
    - {containerPort: 81, hostPort: 8080}
    - {containerPort: 82, hostPort: 8080}
    volumeMounts:
    - {name: config, mountPath: /etc/app}
    - {name: nowhere, mountPath: data}
  - name: web
    imge: redis
    livenessProbe: {periodSeconds: x}
    resources: {limits: {memory: lots, cpu: 0}}
    securityContext: {privileged: "yes", runAsUser: -1}
  volumes:
  - {name: config, configMap: {nam: c}}
  - name: config
  restartPolicy: Perhaps
metadata:
  labels: {tier: 1, app: web}
  generateName: x
apiVersion: v1
kidn: Pod
"#;
    let expected = r#"
spec.containers[0].env[0].value: is the number 8080, and text is wanted: put it in quotes
spec.containers[0].env[1].value: is the boolean true, and text is wanted: put it in quotes
spec.containers[0].args[1]: is the number 80, and text is wanted: put it in quotes
spec.containers[0].ports[0].containerPort: is the text "80", and a number is wanted: write 80, without quotes
spec.containers[0].ports[1].containerPort: 99999999999 is not between 1 and 65535
spec.containers[0].ports[3].hostPort: 0.0.0.0:8080 is another port's, too: choose another hostPort
spec.containers[0].volumeMounts[1].name: no volume of the pod is called "nowhere": add it to spec.volumes
spec.containers[0].volumeMounts[1].mountPath: "data" must be absolute
spec.containers[1].name: another container is called web, too: give it another name
spec.containers[1].imge: unknown field, did you mean image?
spec.containers[1].livenessProbe.periodSeconds: is the text "x", and a whole number is wanted
spec.containers[1].resources.limits.memory: "lots" is no quantity: write 500m, 0.5, 64Mi or the like
spec.containers[1].resources.limits.cpu: must be more than 0; leave it out for no limit
spec.containers[1].securityContext.privileged: is the text "yes", and true or false is wanted, without quotes
spec.containers[1].securityContext.runAsUser: -1 is not between 0 and 2147483647
spec.volumes[0].configMap.nam: unknown field, did you mean name?
spec.volumes[1].name: another volume is called config, too: give it another name
spec.restartPolicy: "Perhaps" is none of Always, OnFailure, Never
metadata.labels.tier: is the number 1, and text is wanted: put it in quotes
metadata.generateName: not supported: give a name
"#;
    let errors = PodSpec::from_yaml(text).unwrap_err();
    let found = lines(text);
    assert_eq!(found.join("\n"), expected.trim());
    // metadata.name, which is missing, and kidn.
    assert_eq!((found.len(), errors.more()), (MAX_SPEC_ERRORS, 2));
    // The same from JSON, by its own order.
    let json = r#"{"spec": {"containers": [{"image": 1, "name": "C"}]}, "apiVersion": "v1", "metadata": {}, "kind": "Pod"}"#;
    let errors = PodSpec::from_json(json).unwrap_err();
    let paths: Vec<_> = errors.errors().into_iter().filter_map(SpecError::path).collect();
    assert_eq!(
        paths,
        [
            "spec.containers[0].image",
            "spec.containers[0].name",
            "metadata.name"
        ]
    );
}

#[test]
fn mistakes_know_their_lines() {
    let text = "kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: b\n    prots: []\n  - name: é\n    command: [x, 7]\n---\n# Another one.\nkind: List\nitems:\n- {kind: ConfigMap, apiVersion: v1,\n   metadata: {name: m}, data: {a: 1}}\n";
    let errors = Documents::from_yaml(&[("a.yaml", text)], None).unwrap_err();
    let (_, errors) = errors.files().next().unwrap();
    let lines = errors.located().map(|(location, error)| {
        let at = location.map(|at| at.to_string()).unwrap_or_default();
        format!("{at} {}", error.path().unwrap_or_default())
    });
    let expected = [
        // In the second document, by its own count of the file's lines.
        "16:32 ConfigMap m: data.a",
        "8:5 spec.containers[0].prots",
        "9:5 spec.containers[1].name",
        "10:18 spec.containers[1].command[1]",
        // Missing in what stands here.
        "9:5 spec.containers[1].image",
    ];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    let json = "{\"kind\": \"Pod\", \"apiVersion\": \"v1\",\n \"metadata\": {\"name\": 3}}";
    let errors = PodSpec::from_json(json).unwrap_err();
    let places = errors.located().filter_map(|(location, _)| location);
    let places: Vec<_> = places.map(|at| at.to_string()).collect();
    assert_eq!(places, ["2:15"], "{errors}");
    // What was not read from a text stands nowhere.
    let errors = PodSpec::from_value(serde_json::from_str(json).unwrap()).unwrap_err();
    assert!(
        errors.located().all(|(location, _)| location.is_none()),
        "{errors}"
    );
}

#[test]
fn one_mistake_is_one_line_as_ever() {
    let errors = PodSpec::from_yaml(&manifest("hostname: A", "")).unwrap_err();
    let [only] = errors.errors()[..] else {
        panic!("{errors}")
    };
    assert_eq!(errors.to_string(), only.to_string());
    assert_eq!(format!("spec.hostname: {}", only.reason()), only.to_string());
}

#[test]
fn what_follows_from_a_mistake_is_not_another() {
    for (text, only) in [
        // No containers, since their list is called otherwise.
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {contianers: []}}",
            "spec.contianers: unknown field, did you mean containers?",
        ),
        // No volumes, since they are no list.
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {volumes: {v: {}}, containers: [{name: c, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}}",
            "spec.volumes: is an object, and a list is wanted",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: web}",
            "spec: is a string, and an object is wanted",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [c]}}",
            "spec.containers[0]: is a string, and an object is wanted",
        ),
    ] {
        assert_eq!(lines(text), [only]);
    }
}

#[test]
fn a_manifest_of_mistakes_is_read_quickly_and_named_in_part() {
    // As many unknown fields as fit, with names that look like none; as many wrong values as fit.
    let fields = (0..12_000).map(|n| format!("f{n}: 1")).collect::<Vec<_>>();
    let unknown = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{}}}}}",
        fields.join(", ")
    );
    let mounts = vec!["{name: v, mountPath: v}"; 8_000].join(", ");
    let values = manifest("", &format!("volumeMounts: [{mounts}]"));
    for text in [unknown, values] {
        assert!(text.len() <= crate::limits::MAX_SPEC_SIZE);
        let errors = PodSpec::from_yaml(&text).unwrap_err();
        assert_eq!(errors.errors().len(), MAX_SPEC_ERRORS);
        assert!(errors.more() > 7_000, "{}", errors.more());
        assert!(errors.to_string().len() < 10_000);
    }
    // No value is repeated at any length.
    for piece in [
        "hostname: ",
        "restartPolicy: ",
        "runtimeClassName: ",
        "hostNetwork: ",
    ] {
        let text = manifest(&format!("{piece}{}", "x".repeat(500_000)), "");
        let error = PodSpec::from_yaml(&text).unwrap_err().to_string();
        assert!(error.len() < 500, "{piece}: {} bytes", error.len());
    }
}

#[test]
fn every_kind_of_value_is_asked_for_by_name() {
    refused_in_pod(
        r#"
        hostNetwork: "true" => hostNetwork: is the text "true", and true or false is wanted
        activeDeadlineSeconds: soon => activeDeadlineSeconds: is the text "soon", and a whole number is wanted
        activeDeadlineSeconds: 1.5 => activeDeadlineSeconds: is the number 1.5, and a whole number is wanted
        hostname: [a] => hostname: is a list, and text is wanted
        volumes: [{name: 1}] => volumes[0].name: is the number 1, and text is wanted: put it in quotes
        volumes: [{emptyDir: {}}] => volumes[0].name: is missing
        volumes: [{name: v, hostPath: {}}] => volumes[0].hostPath.path: is missing
        securityContext: {supplementalGroups: [1, a]} => securityContext.supplementalGroups[1]: is the text "a", and a whole
        "#,
    );
    refused_in_container(
        r#"
        command: [[sh]] => command[0]: is a list, and text is wanted
        env: [{value: x}] => env[0].name: is missing
        ports: [{}] => ports[0].containerPort: is missing
        ports: [{containerPort: http}] => ports[0].containerPort: is the text "http", and a whole number is wanted
        resources: {limits: {memory: [1]}} => resources.limits.memory: is a list, and a quantity is wanted
        resources: {limits: 1} => resources.limits: is a number, and an object is wanted
        "#,
    );
}
