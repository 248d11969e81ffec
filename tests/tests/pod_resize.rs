//! `pod resize` and `resizePolicy`.

use std::{fs, path::Path, process::Command};

use magikrun_tests::{BUSYBOX, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

fn run(magikrun: &Magikrun, policy: &Value, resources: &Value) {
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
            "command": ["busybox", "sh", "-c", "exec busybox sleep 1000"],
            "resizePolicy": policy, "resources": resources}]}});
    let ran = magikrun.pod_run(&manifest);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// The container in the status of Kubernetes' form.
fn status(magikrun: &Magikrun) -> Value {
    let pod: Value = serde_json::from_str(&magikrun.ok(&["pod", "status", "-o", "json", "p"])).unwrap();
    pod["status"]["containerStatuses"][0].clone()
}

/// What the kernel has as the container's limits: bytes of memory, and thousandths of a processor.
fn limits(magikrun: &Magikrun) -> (u64, u64) {
    let id = magikrun.json(&["pod", "status", "p"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*/{id}/c")])
        .output()
        .expect("find");
    let dirs = String::from_utf8(found.stdout).expect("UTF-8");
    // Each controller has its own on v1.
    let read = |file: &str| {
        dirs.lines()
            .find_map(|dir| fs::read_to_string(Path::new(dir).join(file)).ok())
    };
    let memory = read("memory.limit_in_bytes")
        .or_else(|| read("memory.max"))
        .expect("a limit");
    let quota = read("cpu.cfs_quota_us")
        .or_else(|| read("cpu.max"))
        .expect("a quota");
    let number = |text: &str| text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
    (number(&memory), number(&quota) / 100)
}

const MIB: u64 = 1 << 20;

isolated!(
    fn limits_are_others_while_the_container_goes_on_and_stay_when_it_is_run_again(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        run(&magikrun, &json!([]), &json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}));
        assert_eq!(limits(&magikrun), (64 * MIB, 500));
        magikrun.ok(&["pod", "resize", "p", "--memory", "96Mi", "--cpu", "1.5", "--cpu-request", "200m"]);
        assert_eq!(limits(&magikrun), (96 * MIB, 1500));
        let now = status(&magikrun);
        assert_eq!(now["resources"]["limits"], json!({"cpu": "1500m", "memory": "100663296"}), "{now}");
        assert_eq!((&now["resources"]["requests"]["cpu"], &now["restartCount"]), (&json!("200m"), &json!(0)));
        // What is not given stays.
        magikrun.ok(&["pod", "resize", "p", "-c", "c", "--cpu", "750m"]);
        assert_eq!(limits(&magikrun), (96 * MIB, 750));
        magikrun.ok(&["pod", "restart", "-c", "c", "p"]);
        assert_eq!(limits(&magikrun), (96 * MIB, 750));
        assert_eq!(status(&magikrun)["resources"]["limits"]["cpu"], "750m");
        // A device of the container's is still its own.
        magikrun.ok(&["pod", "exec", "p", "--", "busybox", "sh", "-c", "echo x > /dev/null"]);
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);

isolated!(
    fn a_policy_has_the_container_run_again(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let policy = json!([
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        ]);
        run(&magikrun, &policy, &json!({"limits": {"cpu": "500m", "memory": "64Mi"}}));
        let count = || status(&magikrun)["restartCount"].clone();
        magikrun.ok(&["pod", "resize", "p", "--cpu", "400m", "--cpu-request", "400m"]);
        assert_eq!(count(), 0);
        magikrun.ok(&["pod", "resize", "p", "--memory", "32Mi"]);
        wait_for("the second run", || count() == 1);
        assert_eq!(limits(&magikrun), (32 * MIB, 400));
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);

isolated!(
    fn amounts_that_it_cannot_have_are_refused_and_change_nothing(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        run(&magikrun, &json!([]), &json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "8Mi"}}));
        magikrun.ok(&["pod", "exec", "p", "--", "busybox", "sh", "-c", "busybox head -c 20000000 /dev/zero > /dev/shm/x"]);
        for (args, why) in [
            (vec!["--cpu", "0"], "resources.limits.cpu: must be more than 0"),
            (vec!["--cpu", "50m"], "resources.requests.cpu: must not be more than the limit"),
            (vec!["--memory", "4Ki"], "at least 1048576 bytes are needed"),
            (vec!["--memory", "10Mi"], "more than 10485760"),
            (vec!["--cpu-request", "500m", "--memory-request", "64Mi"], "the pod would be Guaranteed, and it stays Burstable"),
            (vec!["-c", "x", "--cpu", "1"], "called so: \"x\""),
            (vec![], "give --cpu, --memory, --cpu-request or --memory-request"),
        ] {
            let said = magikrun.error(&[&["pod", "resize", "p"], args.as_slice()].concat());
            assert!(said.contains(why), "{args:?}: {said}");
        }
        assert_eq!(magikrun.run(&["pod", "resize", "p", "--cpu", "much"]).code, 2);
        assert_eq!(limits(&magikrun), (64 * MIB, 500));
        assert!(magikrun.json(&["pod", "status", "p"])["containers"][0]["resized"].is_null());
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);
