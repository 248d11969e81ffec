//! A real pod from real programs: nginx and redis out of Debian packages, through a registry, from the command line.

use std::time::{Duration, Instant};

use magikrun_tests::{Census, Magikrun, Registry, isolated, redis_nginx_layout};

/// As a user would write it.
fn manifest(registry: &dyn Fn(&str) -> String) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: shop
  namespace: default
  labels: {{app: shop}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes:
    - name: www
      emptyDir: {{}}
    - name: scratch
      emptyDir: {{medium: Memory}}
  initContainers:
    - name: write-page
      image: {client}
      command: [sh, -c, "echo \"hello from $WHO\" > /www/index.html"]
      env:
        - name: WHO
          value: the init container
      volumeMounts:
        - name: www
          mountPath: /www
  containers:
    - name: nginx
      image: {nginx}
      ports:
        - containerPort: 8080
      resources:
        limits: {{memory: 128Mi, cpu: "1"}}
      volumeMounts:
        - name: www
          mountPath: /srv/www
          readOnly: true
    - name: redis
      image: {redis}
      resources:
        limits: {{memory: 128Mi}}
    - name: client
      image: {client}
      # A shell that is PID 1 and has no trap ignores SIGTERM: it is the one that stop has to kill.
      command: [sh, -c, "while :; do busybox sleep 1; done"]
      volumeMounts:
        - name: scratch
          mountPath: /scratch
"#,
        client = registry("client"),
        nginx = registry("nginx"),
        redis = registry("redis"),
    )
}

/// `pod exec` in the client's container.
fn in_client<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["pod", "exec", "-c", "client", "shop", "--"], args].concat()
}

/// Asks until the server is up: it answers some time after it was started.
fn eventually(magikrun: &Magikrun, args: &[&str], expected: &str) {
    let begun = Instant::now();
    loop {
        let out = magikrun.run(args);
        if out.code == 0 && out.stdout == expected {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{args:?}: {out:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

isolated!(
    fn debian_nginx_and_redis_run_as_a_pod_from_a_registry(scene) {
        let magikrun = Magikrun::new(scene);
        let registry = Registry::start(&scene.dir().join("registry"), 5000);
        let layout = redis_nginx_layout(&scene.dir().join("layout"));
        for image in ["client", "nginx", "redis"] {
            let name = registry.push(&layout, image, image);
            magikrun.ok(&["image", "pull", &name]);
        }
        drop(registry);
        let file = magikrun.manifest(manifest(&|image| format!("127.0.0.1:5000/test/{image}:1")));
        // Layers are unpacked for the first pod that needs them, and stay: they are the store's.
        magikrun.ok(&["pod", "run", "-f", &file]);
        magikrun.ok(&["pod", "delete", "--force", "shop"]);
        let before = Census::take(&magikrun.roots());

        magikrun.ok(&["pod", "run", "-f", &file]);
        assert_eq!(magikrun.pods(), ["shop"]);
                eventually(&magikrun, &in_client(&["curl", "-sf", "http://localhost:8080/"]), "hello from the init container\n");
        eventually(&magikrun, &in_client(&["redis-cli", "-h", "127.0.0.1", "PING"]), "PONG\n");
        assert_eq!(magikrun.run(&in_client(&["redis-cli", "SET", "key", "value"])).stdout, "OK\n");
        assert_eq!(magikrun.run(&in_client(&["redis-cli", "GET", "key"])).stdout, "value\n");

        assert_eq!(magikrun.run(&in_client(&["sh", "-c", "exit 42"])).code, 42);
        assert_eq!(magikrun.run(&in_client(&["curl", "-sf", "http://localhost:8080/none"])).code, 22, "curl's own exit code");
        assert_eq!(magikrun.run(&in_client(&["no-such-program"])).code, 127);
        let access_log = magikrun.ok(&["pod", "logs", "-c", "nginx", "shop"]);
        assert!(access_log.contains("GET / HTTP/1.1\" 200"), "{access_log}");
        let redis_log = magikrun.ok(&["pod", "logs", "-c", "redis", "shop"]);
        assert!(redis_log.contains("Ready to accept connections"), "{redis_log}");
        let user = magikrun.ok(&["pod", "exec", "-c", "redis", "shop", "--", "busybox", "id", "-u"]);
        assert_eq!(user, "101\n", "the image's user");
        let stats = magikrun.json(&["pod", "stats", "shop"]).to_string();
        assert!(["nginx", "redis", "client"].iter().all(|c| stats.contains(c)), "{stats}");

        magikrun.ok(&["pod", "stop", "-t", "1", "shop"]);
        let status = magikrun.json(&["pod", "status", "shop"]);
        let exit = |name: &str| {
            let containers = status["containers"].as_array().expect("containers");
            containers.iter().find(|c| c["name"] == name).expect(name)["state"]["exit"].clone()
        };
        // Redis and nginx end by themselves on SIGTERM, within the grace period; the client has to be killed.
        assert_eq!((exit("redis")["code"].as_i64(), exit("nginx")["code"].as_i64()), (Some(0), Some(0)), "{status}");
        assert_eq!((exit("client")["code"].as_i64(), exit("client")["signal"].as_i64()), (Some(137), Some(9)), "{status}");

        magikrun.ok(&["pod", "delete", "shop"]);
        assert_eq!(magikrun.pods(), Vec::<String>::new());
        before.assert_same("after delete");
    }
);
