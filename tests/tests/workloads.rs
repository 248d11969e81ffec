//! Several pods of one command: Deployments, Jobs and the like, and pods beside each other.

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated, pod};
use serde_json::{Value, json};

/// A workload whose pods run this script.
fn workload(version: &str, kind: &str, spec: Value, script: &str) -> Value {
    let mut workload = json!({
        "apiVersion": version, "kind": kind, "metadata": {"name": "web"},
        "spec": {"template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [container("c", BUSYBOX, script)],
            },
        }},
    });
    let Value::Object(more) = spec else {
        panic!("an object is wanted")
    };
    workload["spec"].as_object_mut().expect("spec").extend(more);
    workload
}

isolated!(
    fn a_deployments_pods_are_run_numbered_and_found_again(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let mut deployment = workload(
            "apps/v1",
            "Deployment",
            json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}),
            "sleep 1000",
        );
        deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        let file = magikrun.manifest(deployment.to_string());
        let ids = magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        assert_eq!(ids.lines().count(), 3);
        let mut names = magikrun.pods();
        names.sort();
        assert_eq!(names, ["web-0", "web-1", "web-2"]);
        for name in &names {
            let said = magikrun.ok(&["pod", "exec", name, "--", "/bin/sh", "-c", "echo $NAME $(hostname)"]);
            assert_eq!(said, format!("{name} {name}\n"));
        }
        let deleted = magikrun.ok(&["pod", "delete", "--force", "-f", &file]);
        assert_eq!(deleted, "default/web-0\ndefault/web-1\ndefault/web-2\n");
        before.assert_same("after the deployment");
    }
);

isolated!(
    fn all_of_several_pods_are_run_or_none_where_that_is_asked_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let good = pod("good", &[container("c", BUSYBOX, "sleep 1000")]);
        let mut bad = pod("bad", &[container("c", BUSYBOX, "sleep 1000")]);
        bad["spec"]["initContainers"] = json!([container("i", BUSYBOX, "exit 3")]);
        let last = pod("last", &[container("c", BUSYBOX, "sleep 1000")]);
        let file = magikrun.manifest(format!("{good}\n---\n{bad}\n---\n{last}\n"));

        let out = magikrun.run(&["pod", "run", "-q", "--atomic", "-f", &file]);
        assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out:?}");
        assert!(out.stderr.contains("pod default/bad") && out.stderr.lines().count() == 1, "{out:?}");
        before.assert_same("after pods of which one cannot be run");

        let out = magikrun.run(&["pod", "run", "-q", "-f", &file]);
        assert_eq!((out.code, out.stdout.lines().count()), (1, 2), "{out:?}");
        assert!(out.stderr.contains("pod default/bad") && out.stderr.lines().count() == 1, "{out:?}");
        let mut names = magikrun.pods();
        names.sort();
        assert_eq!(names, ["good", "last"], "each of them is run or not by itself");
        magikrun.ok(&["pod", "delete", "--all", "--force"]);
        before.assert_same("after the pods");
    }
);

isolated!(
    fn a_jobs_pods_are_waited_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let mut job = workload(
            "batch/v1",
            "Job",
            json!({"completions": 2, "completionMode": "Indexed"}),
            "exit $((JOB_COMPLETION_INDEX * 7))",
        );
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        let file = magikrun.manifest(job.to_string());
        let out = magikrun.run(&["pod", "run", "-q", "--rm", "-f", &file]);
        assert_eq!(out.code, 7, "{out:?}");
        before.assert_same("after the job");
        let said = magikrun.error(&["pod", "run", "-q", "--attach", "-f", &file]);
        assert!(said.contains("--attach shows one pod, and these are 2"), "{said}");
        before.assert_same("after what cannot be shown");
    }
);
