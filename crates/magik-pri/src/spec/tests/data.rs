//! Volumes of ConfigMaps, Secrets and of the pod itself.

use super::*;

const DATA: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a.conf: 'x = 1', b: two}
binaryData: {blob: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
data: {password: aHVudGVyMg==}
";

fn volume(volume: &str) -> Result<BoundFiles, SpecErrors> {
    let text = format!(
        "{}{DATA}",
        manifest(&format!("volumes: [{{name: v, {volume}}}]"), "")
    );
    let text = text.replace(
        "name: p\n",
        "name: p\n  labels: {a: '1', b: '2'}\n  annotations: {note: \"x\\ny\"}\n",
    );
    let pod = PodSpec::from_yaml(&text)?;
    let VolumeSource::Data(data) = &pod.volumes[0].source else {
        panic!("{pod:?}")
    };
    data.bind(&pod, &Facts::of_pod("0123456789abcdef01234567"))
}

fn files(text: &str) -> Vec<(String, u32, Vec<u8>)> {
    let files = volume(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    files
        .into_iter()
        .map(|(path, file)| (path, file.mode, file.bytes.to_vec()))
        .collect()
}

fn file(path: &str, mode: u32, text: &str) -> (String, u32, Vec<u8>) {
    (path.into(), mode, text.into())
}

#[test]
fn keys_are_files() {
    assert_eq!(
        files("configMap: {name: settings}"),
        [
            file("a.conf", 0o644, "x = 1"),
            file("b", 0o644, "two"),
            file("blob", 0o644, "\0\u{1}\u{2}")
        ]
    );
    assert_eq!(
        files("secret: {secretName: login, defaultMode: 0400}"),
        [file("password", 0o400, "hunter2")]
    );
    // Permissions as people write them, and as JSON has them.
    for mode in ["0440", "0o440", "288"] {
        let text = format!("secret: {{secretName: login, defaultMode: {mode}}}");
        assert_eq!(files(&text)[0].1, 0o440, "{mode}");
    }
    let items = "configMap: {name: settings, items: [{key: a.conf, path: etc/./app//a, mode: 0600}, {key: none, path: x}], optional: true}";
    assert_eq!(files(items), [file("etc/app/a", 0o600, "x = 1")]);
    assert_eq!(files("configMap: {name: none, optional: true}"), []);
}

#[test]
fn files_tell_of_the_pod() {
    let text = "downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: notes, mode: 0400, fieldRef: {fieldPath: metadata.annotations}},
        {path: uid, fieldRef: {fieldPath: metadata.uid}}, {path: mem, resourceFieldRef: {containerName: c, resource: requests.memory}}]}";
    assert_eq!(
        files(text),
        [
            file("labels", 0o644, "a=\"1\"\nb=\"2\""),
            file("mem", 0o644, "0"),
            file("notes", 0o400, "note=\"x\\ny\""),
            file("uid", 0o644, "0123456789abcdef01234567"),
        ]
    );
}

#[test]
fn several_sources_are_one_directory() {
    let text = "projected: {defaultMode: 0440, sources: [{configMap: {name: settings, items: [{key: b, path: conf/b}]}},
        {secret: {name: login, items: [{key: password, path: conf/password, mode: 0400}]}},
        {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}";
    assert_eq!(
        files(text),
        [
            file("conf/b", 0o440, "two"),
            file("conf/password", 0o400, "hunter2"),
            file("name", 0o440, "p"),
        ]
    );
    assert_eq!(files("projected: {sources: []}"), []);
}

#[test]
fn what_is_wrong_with_a_volume_is_named() {
    refused(
        "spec.volumes[0]",
        r#"
        configMap: {name: none} => .configMap.name: no ConfigMap is called "none": there is settings
        projected: {sources: [{secret: {name: login}}, {secret: {name: none}}]} => .projected.sources[1].secret.name: no Secret is called "none": there is login
        configMap: {name: ''} => .configMap.name: must not be empty
        configMap: {} => .configMap.name: is missing
        secret: {secretName: settings} => .secret.secretName: no Secret is called "settings": there is login
        secret: {name: login} => .secret.name: unknown field
        configMap: {name: settings, items: [{key: b, path: b}, {key: c, path: c}]} => .configMap.items[1].key: ConfigMap settings has no key "c": it has a.conf, b, blob
        configMap: {name: settings, items: [{key: b}]} => .configMap.items[0].path: is missing
        configMap: {name: settings, items: [{key: b, path: ../b}]} => .configMap.items[0].path: "../b" must not hold '..'
        configMap: {name: settings, items: [{key: b, path: a/../../b}]} => .configMap.items[0].path: "a/../../b" must not hold '..'
        configMap: {name: settings, items: [{key: b, path: /etc/passwd}]} => .configMap.items[0].path: "/etc/passwd" must be relative
        configMap: {name: settings, items: [{key: b, path: ..data}]} => .configMap.items[0].path: "..data" must not begin with '..'
        configMap: {name: settings, items: [{key: b, path: ./..data/x}]} => .configMap.items[0].path: "./..data/x" must not begin with '..'
        configMap: {name: settings, items: [{key: b, path: .}]} => .configMap.items[0].path: "." names no file
        configMap: {name: settings, items: [{key: b, path: ""}]} => .configMap.items[0].path: "" is no path
        configMap: {name: settings, items: [{key: b, path: "a\0b"}]} => .configMap.items[0].path: "a\0b" is no path
        configMap: {name: settings, items: [{key: b, path: x}, {key: a.conf, path: ./x}]} => .configMap.items[1].path: "x" is another file's path, too
        configMap: {name: settings, items: [{key: b, path: x}, {key: a.conf, path: x/y}]} => : "x" is a file, and another file lies below it
        configMap: {name: settings, defaultMode: 01777} => .configMap.defaultMode: 1023 is not between 0 and 511
        configMap: {name: settings, defaultMode: 644} => .configMap.defaultMode: 644 is not between 0 and 511, which is 0777: write permissions as 0644
        configMap: {name: settings, items: [{key: b, path: b, mode: -1}]} => .configMap.items[0].mode: -1 is not between
        configMap: {name: settings}, secret: {secretName: login} => : is both configMap and secret: remove one
        downwardAPI: {items: [{path: a}]} => .downwardAPI.items[0]: is either a fieldRef or a resourceFieldRef
        downwardAPI: {items: [{path: a, fieldRef: {fieldPath: status.podIP}}]} => .downwardAPI.items[0].fieldRef.fieldPath: is for variables
        downwardAPI: {items: [{path: a, resourceFieldRef: {resource: limits.cpu}}]} => .downwardAPI.items[0].resourceFieldRef.containerName: is missing
        projected: {sources: [{serviceAccountToken: {path: t}}]} => .projected.sources[0].serviceAccountToken: not supported: there is no API server
        projected: {sources: [{clusterTrustBundle: {path: t}}]} => .projected.sources[0].clusterTrustBundle: not supported
        projected: {sources: [{podCertificate: {}}]} => .projected.sources[0].podCertificate: not supported
        projected: {sources: [{}]} => .projected.sources[0]: is one of configMap, secret and downwardAPI
        "#,
        |text| volume(text).unwrap_err().to_string(),
    );
}

#[test]
fn files_of_a_volume_are_counted() {
    let items = |n: usize| {
        let items: Vec<_> = (0..n).map(|i| format!("{{key: b, path: f{i}}}")).collect();
        format!("configMap: {{name: settings, items: [{}]}}", items.join(", "))
    };
    assert_eq!(files(&items(4096)).len(), 4096);
    let said = volume(&items(4097)).unwrap_err().to_string();
    assert!(
        said.starts_with("spec.volumes[0].configMap.items: 4097 files"),
        "{said}"
    );
    let deep = |n: usize| {
        format!(
            "configMap: {{name: settings, items: [{{key: b, path: {}}}]}}",
            vec!["d"; n].join("/")
        )
    };
    assert_eq!(files(&deep(64)).len(), 1);
    assert!(
        volume(&deep(65))
            .unwrap_err()
            .to_string()
            .contains("has more than 64 names")
    );
}

#[test]
fn a_pods_data_is_bounded() {
    let large = "x".repeat(1 << 20);
    let map = format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{K: {large}}}\n");
    let pod = |volumes: usize| {
        let volumes: Vec<_> = (0..volumes)
            .map(|i| format!("{{name: v{i}, configMap: {{name: m}}}}"))
            .collect();
        let text = manifest(&format!("volumes: [{}]", volumes.join(", ")), "");
        PodSpec::from_yaml(&format!("{text}{map}"))
    };
    assert_eq!(pod(16).unwrap().volumes.len(), 16);
    let said = pod(17).unwrap_err().to_string();
    assert!(
        said.starts_with("spec.volumes: the files of ConfigMaps"),
        "{said}"
    );
}
