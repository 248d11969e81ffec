//! Several documents: what serves a pod, where it may be, and what is wrong with it.

use super::*;
use crate::{Documents, pod_names};

fn map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n")
}

fn pod(name: &str, map: &str) -> String {
    manifest("", &format!("envFrom: [{{configMapRef: {{name: {map}}}}}]"))
        .replace("name: p\n", &format!("name: {name}\n"))
}

fn said(texts: &[(&str, &str)]) -> String {
    Documents::from_yaml(texts, None).unwrap_err().to_string()
}

#[test]
fn data_serves_pods_of_its_namespace_wherever_it_is() {
    let documents = Documents::from_yaml(
        &[
            ("a", &pod("one", "m")),
            (
                "b",
                &format!("{}---\n{}", map("m", "{K: v}"), map("unused", "{}")),
            ),
            ("c", &pod("two", "m")),
        ],
        None,
    );
    let documents = documents.unwrap();
    let pods: Vec<_> = documents
        .pods
        .iter()
        .map(|pod| (pod.file.as_str(), pod.spec.name.as_str()))
        .collect();
    assert_eq!(pods, [("a", "one"), ("c", "two")]);
    let unused: Vec<_> = documents
        .ignored
        .iter()
        .map(|(file, field)| (file.as_str(), field.field.as_str()))
        .collect();
    assert_eq!(unused, [("b", "ConfigMap unused")]);

    let elsewhere = map("m", "{K: v}").replace("{name: m}", "{name: m, namespace: shop}");
    assert!(
        said(&[("a", &pod("one", "m")), ("b", &elsewhere)])
            .contains("no ConfigMap is called \"m\", there are none")
    );
    let put = Documents::from_yaml(&[("a", &pod("one", "m")), ("b", &elsewhere)], Some("shop"));
    assert_eq!(put.unwrap().pods[0].spec.full_name(), "shop/one");
}

#[test]
fn what_only_a_cluster_acts_on_changes_nothing_and_is_said() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {anything: 1}}";
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r}}";
    let pod = manifest("", "");
    let documents = Documents::from_yaml(&[("a", &format!("{service}\n---\n{pod}")), ("b", role)], None);
    let ignored = documents.unwrap().ignored.into_iter();
    let said: Vec<_> = ignored
        .map(|(file, field)| format!("{file}: {}: {}", field.field, field.why))
        .collect();
    assert_eq!(
        said,
        [
            "a: Service web: there are no services; pods are reached by their ports",
            "b: Role r: there is no API server that it is about",
        ]
    );
    assert_eq!(
        self::said(&[("a", service)]),
        "a: not a pod: there is only Service web; wanted is kind: Pod, apiVersion: v1, too"
    );
    // Who wrote these relies on them.
    let strict = "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {pod-security.kubernetes.io/enforce: restricted}}}";
    assert!(self::said(&[("a", &format!("{strict}\n---\n{pod}"))]).contains("document 1 is \"Namespace\""));
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}}";
    assert!(
        self::said(&[("a", &format!("{policy}\n---\n{pod}"))]).contains("document 1 is \"NetworkPolicy\"")
    );
}

#[test]
fn a_value_of_a_secret_that_is_no_yaml_is_not_repeated() {
    let secret = |value: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{a: {value}}}\n")
    };
    for value in [
        "!HUNTER2",
        "!HUNTER2 x",
        "*HUNTER2",
        "[HUNTER2",
        "%HUNTER2",
        "@HUNTER2",
        "\"HUNTER2\\q\"",
        "!!int HUNTER2",
        "!!binary HUNTER2!",
        "{<<: HUNTER2}",
        "HUNTER2: b: c",
        "&HUNTER2 *HUNTER2",
    ] {
        let said = self::said(&[("a", &secret(value))]);
        assert!(!said.contains("HUNTER2"), "{value}: {said}");
    }
    assert_eq!(
        self::said(&[("a", &secret("!x"))]),
        "a: not valid YAML: what begins with ! is a tag: put the value into quotes, at line 4, column 19"
    );
}

#[test]
fn a_list_is_what_it_lists() {
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "b", "envFrom": [{"configMapRef": {"name": "m"}}]}]}},
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"A": "1"}}]}
    ]}"#;
    let pod = PodSpec::from_yaml(json).unwrap();
    assert_eq!(bound(&pod, "c").env, [("A".to_owned(), "1".to_owned())]);
    // Mistakes are in the order of the text there, too.
    let wrong = "kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  spec: {containers: [{image: 1, name: C}]}\n  apiVersion: v1\n  metadata: {name: p, lables: {}}\n";
    let errors = PodSpec::from_yaml(wrong).unwrap_err();
    let paths: Vec<_> = errors.errors().into_iter().filter_map(SpecError::path).collect();
    assert_eq!(
        paths,
        [
            "spec.containers[0].image",
            "spec.containers[0].name",
            "metadata.lables"
        ]
    );
}

#[test]
fn all_mistakes_of_all_documents_are_said_each_with_its_file() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: '***', ok: b2s=}\n";
    let text = format!(
        "{}---\n{}---\n{}",
        pod("one", "m"),
        map("m", "{K: 1}"),
        pod("two", "none")
    );
    let said = said(&[("x.yaml", &text), ("s.yaml", secret)]);
    assert_eq!(
        said,
        "x.yaml: ConfigMap m: data.K: is the number 1, and text is wanted: put it in quotes; \
         Pod two: spec.containers[0].envFrom[0].configMapRef.name: no ConfigMap is called \"none\": there is m; \
         s.yaml: Secret s: data.k: is not base64: encode it ('base64 -w0'), or put the text into stringData"
    );
    assert!(!said.contains("***"));
}

#[test]
fn what_a_config_map_with_mistakes_lacks_is_not_another() {
    let text = format!(
        "{}---\n{}",
        manifest(
            "",
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: K}}}]"
        ),
        map("m", "{K: 1}")
    );
    let errors = PodSpec::from_yaml(&text).unwrap_err();
    assert_eq!(errors.errors().len(), 1, "{errors}");
}

#[test]
fn config_maps_and_secrets_are_checked() {
    let object = |text: &str| {
        let text = format!("{}---\n{text}\n", manifest("", ""));
        PodSpec::from_yaml(&text).map(drop).unwrap_err().to_string()
    };
    refused(
        "",
        r#"
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {"../x": z}} => ConfigMap m: data.../x: "../x" is no key: it may hold only
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {"..": z}} => ConfigMap m: data...: ".." is no key: it must not be '.' or begin with '..'
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {"..data": z}} => ConfigMap m: data...data: "..data" is no key
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {".": z}} => ConfigMap m: data..: "." is no key
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {"": z}} => ConfigMap m: data."": "" is no key
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {"a b": z}} => ConfigMap m: data."a b": "a b" is no key
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: z}, binaryData: {a: eQ==}} => ConfigMap m: binaryData.a: is in data, too
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, binaryData: {a: z}} => ConfigMap m: binaryData.a: is not base64
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, stringData: {a: z}} => ConfigMap m: stringData: unknown field
        {apiVersion: v1, kind: ConfigMap, metadata: {name: M}} => ConfigMap M: metadata.name: "M" may hold only
        {apiVersion: v1, kind: ConfigMap} => ConfigMap : metadata.name: is missing
        {apiVersion: v1, kind: ConfigMap, metadata: {name: m}, immutable: 1} => ConfigMap m: immutable: is the number 1
        {apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: "e Q=="}} => Secret s: data.a: is not base64
        {apiVersion: v1, kind: Secret, metadata: {name: s}, type: kubernetes.io/tls, data: {tls.crt: eQ==}} => Secret s: data: a Secret of the type kubernetes.io/tls has the key tls.key
        {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: 4242}} => Secret s: stringData.a: is a number, and text is wanted: put it in quotes
        {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}} => PersistentVolumeClaim c: spec: is missing
        {apiVersion: v1, kind: Endpoints, metadata: {name: c}} => not a pod: document 2 is "Endpoints" of "v1": beside a pod there may be
        "#,
        object,
    );
    let two = format!(
        "{}---\n{}---\n{}",
        manifest("", ""),
        map("m", "{}"),
        map("m", "{}")
    );
    assert_eq!(
        PodSpec::from_yaml(&two).unwrap_err().to_string(),
        "ConfigMap m: metadata.name: another one has that name, too: remove one"
    );
    // As tools write them.
    let fine = "{apiVersion: v1, kind: Secret, metadata: {name: s, creationTimestamp: null}, data: {a: \"eQ\\n==\\n\", b: }, type: Opaque, immutable: true}";
    assert!(object(fine).contains("data.b: is null"), "{}", object(fine));
    let fine = fine.replace(", b: ", "");
    assert!(PodSpec::from_yaml(&format!("{}---\n{fine}", manifest("", ""))).is_ok());
}

#[test]
fn a_config_map_at_its_bound_is_read_and_one_past_it_refused() {
    let text = |size: usize| {
        let data = format!("{{K: '{}'}}", "x".repeat(size));
        format!(
            "{}---\n{}",
            pod("p", "m").replace("envFrom", "#envFrom"),
            map("m", &data)
        )
    };
    assert!(PodSpec::from_yaml(&text(1 << 20)).is_ok());
    let said = PodSpec::from_yaml(&text((1 << 20) + 1)).unwrap_err().to_string();
    assert_eq!(
        said,
        "ConfigMap m: data: 1048577 bytes, at most 1048576 are allowed"
    );
    let pod = manifest("", &format!("args: ['{}']", "x".repeat(1 << 20)));
    let said = PodSpec::from_yaml(&format!("{pod}---\n{}", map("m", "{}")))
        .unwrap_err()
        .to_string();
    assert!(said.starts_with("the manifest has"), "{said}");
    let many = vec![map("m", "{}"); 300].join("---\n");
    assert!(
        PodSpec::from_yaml(&many)
            .unwrap_err()
            .to_string()
            .starts_with("not valid YAML")
    );
    let items = vec!["{apiVersion: v1, kind: ConfigMap}"; 600].join(", ");
    let said = PodSpec::from_yaml(&format!("{{kind: List, items: [{items}]}}"))
        .unwrap_err()
        .to_string();
    assert!(said.contains("more than 512 documents"), "{said}");
}

#[test]
fn there_must_be_a_pod() {
    assert_eq!(
        said(&[("a", &map("m", "{}"))]),
        "a: not a pod: there is only ConfigMap m; wanted is kind: Pod, apiVersion: v1, too"
    );
    assert!(said(&[("a", ""), ("b", "---\n")]).contains("there is nothing in it"));
    assert!(
        said(&[
            ("a", &pod("p", "m")),
            ("b", &pod("p", "m")),
            ("c", &map("m", "{}"))
        ])
        .contains("b: metadata.name: another pod has that name")
    );
}

#[test]
fn pods_are_found_by_what_is_written_of_their_names() {
    let text = format!(
        "{}---\n{}",
        pod("one", "none"),
        "kind: Pod\napiVersion: v1\nmetadata: {name: two, namespace: shop}\n"
    );
    let names = pod_names(&[("a", &text)], None).unwrap();
    assert_eq!(names, ["default/one", "shop/two"]);
    assert_eq!(
        pod_names(&[("a", &pod("one", "none"))], Some("shop")).unwrap(),
        ["shop/one"]
    );
    assert!(
        pod_names(&[("a", "{kind: Pod, apiVersion: v1}")], None)
            .unwrap_err()
            .to_string()
            .contains("metadata.name: is missing")
    );
}
