//! Deployments, Jobs and the like.

use super::*;
use crate::{Documents, pod_names};

fn pods(text: &str) -> Vec<PodSpec> {
    let documents = Documents::from_yaml(&[("a", text)], None).unwrap_or_else(|e| panic!("{text}: {e}"));
    documents.pods.into_iter().map(|pod| pod.spec).collect()
}

fn workload(version: &str, kind: &str, spec: &str, template: &str) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\nspec:\n  {spec}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      {template}\n      containers: [{{name: c, image: b, env: [{{name: SELF, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]}}]\n"
    )
}

#[test]
fn pods_of_workloads_are_numbered_and_know_their_names() {
    for (version, kind, spec, count) in [
        ("apps/v1", "Deployment", "replicas: 3", 3),
        ("apps/v1", "Deployment", "selector: {matchLabels: {app: web}}", 1),
        ("apps/v1", "ReplicaSet", "replicas: 2", 2),
        (
            "v1",
            "ReplicationController",
            "{replicas: 2, selector: {app: web}}",
            2,
        ),
        ("apps/v1", "StatefulSet", "replicas: 2", 2),
        ("apps/v1", "DaemonSet", "minReadySeconds: 1", 1),
        ("batch/v1", "Job", "completions: 4", 4),
        ("batch/v1", "Job", "parallelism: 2", 2),
    ] {
        let spec = spec
            .trim_matches(['{', '}'])
            .replace(", selector: {app: web", "\n  selector: {app: web}");
        let spec = if spec.contains("matchLabels") {
            "selector: {matchLabels: {app: web}}".to_owned()
        } else {
            spec
        };
        let text = workload(version, kind, &spec, "hostUsers: true");
        let text = text
            .replace("hostUsers: true", "restartPolicy: POLICY")
            .replace("POLICY", if kind == "Job" { "Never" } else { "Always" });
        let pods = pods(&text);
        let names: Vec<_> = pods.iter().map(PodSpec::full_name).collect();
        let expected: Vec<_> = (0..count).map(|n| format!("shop/web-{n}")).collect();
        assert_eq!(names, expected, "{kind}");
        assert_eq!(pod_names(&[("a", &text)], None).unwrap(), expected);
        for (pod, name) in pods.iter().zip(&expected) {
            assert_eq!(pod.labels["app"], "web");
            assert_eq!(format!("shop/{}", bound(pod, "c").env[0].1), *name);
        }
    }
    let set = pods(&workload(
        "apps/v1",
        "StatefulSet",
        "replicas: 2",
        "hostUsers: true",
    ));
    assert_eq!(set[1].labels["apps.kubernetes.io/pod-index"], "1");
}

#[test]
fn a_job_tells_its_pods_their_index_and_when_they_are_late() {
    let spec = "completionMode: Indexed\n  completions: 2\n  parallelism: 1\n  activeDeadlineSeconds: 9";
    assert!(
        Documents::from_yaml(
            &[("a", &workload("batch/v1", "Job", spec, "hostUsers: true"))],
            None
        )
        .unwrap_err()
        .to_string()
        .contains("spec.template.spec.restartPolicy: of a job it is OnFailure or Never")
    );
    let text = workload("batch/v1", "Job", spec, "restartPolicy: OnFailure");
    let documents = Documents::from_yaml(&[("a", &text)], None).unwrap();
    let ignored: Vec<_> = documents
        .ignored
        .iter()
        .map(|(_, ignored)| ignored.field.as_str())
        .collect();
    assert_eq!(ignored, ["Job web: spec.parallelism"]);
    let pod = &documents.pods[1].spec;
    assert_eq!(
        bound(pod, "c").env[1],
        ("JOB_COMPLETION_INDEX".to_owned(), "1".to_owned())
    );
    assert_eq!(pod.active_deadline, Some(Duration::from_secs(9)));
    assert_eq!(pod.labels["job-name"], "web");
}

#[test]
fn mistakes_of_a_workload_have_their_place_in_it() {
    let said = |text: &str| {
        Documents::from_yaml(&[("a", text)], None)
            .unwrap_err()
            .to_string()
    };
    let text = workload(
        "apps/v1",
        "Deployment",
        "replicas: many\n  selector: {matchLabels: {app: other}}",
        "hostname: A",
    );
    assert_eq!(
        said(&text),
        "a: spec.replicas: is the text \"many\", and a whole number is wanted; \
         spec.template.spec.hostname: \"A\" may hold only lower-case letters, digits and '-', with a letter or digit at both ends"
    );
    let other = workload(
        "apps/v1",
        "Deployment",
        "selector: {matchLabels: {app: other}}",
        "hostname: a",
    );
    assert!(
        said(&other)
            .starts_with("a: spec.selector.matchLabels.app: the pods of the template have no such label")
    );
    for (spec, message) in [
        ("replicas: 0", "a: spec.replicas: 0 is not between 1 and 512"),
        ("replicas: -1", "a: spec.replicas: -1 is not between"),
        ("replicas: 513", "a: spec.replicas: 513 is not between"),
        (
            "replica: 1",
            "a: spec.replica: unknown field, did you mean replicas?",
        ),
    ] {
        assert!(
            said(&workload("apps/v1", "Deployment", spec, "hostname: a")).starts_with(message),
            "{spec}"
        );
    }
    for (template, message) in [
        ("", "a: spec.template: is null, and an object is wanted"),
        ("[]", "a: spec.template: is a list, and an object is wanted"),
        ("{}", "a: spec.template.spec: is missing"),
        (
            "{metadata: x, spec: {containers: [{name: c, image: b}]}}",
            "a: spec.template.metadata: is a string",
        ),
        (
            "{spec: {containers: []}}",
            "a: spec.template.spec.containers: a pod has at least one",
        ),
    ] {
        let text = format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{template: {template}}}}}"
        );
        assert!(said(&text).starts_with(message), "{template}: {}", said(&text));
    }
    let many = format!(
        "{}---\n{}",
        workload("apps/v1", "Deployment", "replicas: 300", "hostname: a"),
        workload("apps/v1", "Deployment", "replicas: 300", "hostname: a").replace("name: web", "name: more")
    );
    assert!(said(&many).contains("more than 512 pods"), "{}", said(&many));
    let twice = format!(
        "{}---\n{}",
        manifest("", "").replace("name: p\n", "name: web-0\n  namespace: shop\n"),
        workload("apps/v1", "Deployment", "replicas: 1", "hostname: a")
    );
    assert!(
        said(&twice).contains("Deployment web: metadata.name: another pod has that name"),
        "{}",
        said(&twice)
    );
}
