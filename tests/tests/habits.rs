//! What people type who know podman, docker or kubectl: it works here, or one line says what does.

use std::{env, fs};

use magikrun_tests::{BUSYBOX, Magikrun, busybox_layout, container, isolated, pod};

/// Command lines of theirs with a pod `web` running, and a part of the answer where the command is
/// another one here. Those without an answer work.
const HABITS: &[(&str, Option<&str>)] = &[
    // kubectl
    ("kubectl get pods", Some("'magikrun pod ls'")),
    ("kubectl get pods -A", Some("'magikrun pod ls'")),
    ("kubectl get po -n shop -o wide", Some("'magikrun pod ls'")),
    ("kubectl -n default get pods", Some("'magikrun pod ls'")),
    ("kubectl get pod web -o yaml", Some("'magikrun pod ls'")),
    ("kubectl get events", Some("'magikrun pod events POD'")),
    ("kubectl describe pod web", Some("'magikrun pod status POD'")),
    ("kubectl apply -f pod.yaml", Some("'magikrun pod run -f FILE'")),
    ("kubectl create -f pod.yaml", Some("'magikrun pod run -f FILE'")),
    (
        "kubectl replace --force -f pod.yaml",
        Some("'magikrun pod run --replace -f FILE'"),
    ),
    (
        "kubectl delete -f pod.yaml",
        Some("'magikrun pod delete -f pod.yaml'"),
    ),
    ("kubectl delete pod web", Some("'magikrun pod delete POD'")),
    (
        "kubectl delete pod web --grace-period=0 --force",
        Some("'magikrun pod delete POD'"),
    ),
    (
        "kubectl logs -f web -c app --tail=10",
        Some("'magikrun pod logs POD'"),
    ),
    ("kubectl logs web --previous", Some("'magikrun pod logs POD'")),
    (
        "kubectl exec -it web -- sh",
        Some("'magikrun pod exec -it POD -- COMMAND'"),
    ),
    (
        "kubectl exec web -c c -- ls",
        Some("'magikrun pod exec -it POD -- COMMAND'"),
    ),
    (
        "kubectl port-forward web 8080:80",
        Some("'magikrun pod port-forward POD PORT'"),
    ),
    (
        "kubectl rollout restart deployment/web",
        Some("'magikrun pod restart POD'"),
    ),
    (
        "kubectl scale --replicas=3 deployment/web",
        Some("'magikrun pod run -f FILE'"),
    ),
    ("kubectl edit pod web", Some("magikrun pod run --replace -f FILE")),
    (
        "kubectl explain pod.spec",
        Some("'magikrun pod validate -f FILE'"),
    ),
    // podman and docker
    (
        "podman run -d --name web -p 8080:80 nginx",
        Some("'magikrun pod run -f FILE'"),
    ),
    (
        "docker run -it --rm alpine sh",
        Some("'magikrun pod run -f FILE'"),
    ),
    ("docker run nginx", Some("'magikrun pod run -f FILE'")),
    ("podman ps", Some("'magikrun pod ls'")),
    ("podman ps -a", Some("'magikrun pod ls'")),
    ("podman pod ps", None),
    (
        "docker exec -it web sh",
        Some("'magikrun pod exec -it POD -- COMMAND'"),
    ),
    ("podman start web", Some("'magikrun pod run -f FILE'")),
    ("podman kill web", Some("'magikrun pod stop -t 0 POD'")),
    ("docker stop web", Some("'magikrun pod stop POD'")),
    ("docker rm -f web", Some("'magikrun pod delete POD'")),
    ("docker container ls", Some("'magikrun pod ls'")),
    ("podman kube play pod.yaml", Some("'magikrun pod run -f FILE'")),
    (
        "podman kube play --replace pod.yaml",
        Some("'magikrun pod run -f FILE'"),
    ),
    (
        "podman kube down pod.yaml",
        Some("'magikrun pod delete --force -f FILE'"),
    ),
    ("podman pull nginx", Some("'magikrun image pull NAME'")),
    ("podman images", Some("'magikrun image ls'")),
    ("podman image ls", None),
    ("docker rmi nginx", Some("'magikrun image rm IMAGE'")),
    ("docker build -t app .", Some("podman build")),
    ("docker compose up -d", Some("'magikrun pod run -f FILE'")),
    ("podman volume list", Some("volume ls")),
    ("podman volume remove data", Some("volume rm NAME")),
    ("docker network ls", Some("spec.hostNetwork")),
    ("docker search nginx", Some("'magikrun image pull NAME'")),
    ("docker info", Some("'magikrun system info'")),
    ("podman system info", None),
    ("podman --version", None),
    // their options of our commands
    ("magikrun pod ls -a", Some("leave it out")),
    ("magikrun pod ls --watch", Some("'magikrun pod events -f POD'")),
    ("magikrun pod ls -o wide", Some("possible values: ")),
    ("magikrun pod run -d -f pod.yaml", Some("leave it out")),
    (
        "magikrun pod run --replace -f pod.yaml",
        Some("'magikrun pod delete --force -f FILE'"),
    ),
    ("magikrun pod logs web --tail=10", None),
    ("magikrun pod logs --previous web", Some("leave it out")),
    ("magikrun pod exec --stdin web -- cat", Some("-i")),
    ("magikrun pod stop --timeout=3 web", Some("-t SECONDS")),
    ("magikrun pod stats --no-stream", None),
    ("magikrun pod delete --ignore-not-found nobody", Some("--force")),
    (
        "magikrun pod delete web --grace-period=0",
        Some("'magikrun pod stop -t SECONDS POD'"),
    ),
    ("magikrun image rm -f nobody", Some("delete the pods")),
    ("magikrun system prune -f", Some("leave it out")),
];

isolated!(
    fn of_podman_and_kubectl_work_or_are_answered(scene) {
        let magikrun = Magikrun::new(scene);
        magikrun.ok(&["image", "pull", &busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX)]);
        let web = pod("web", &[container("c", BUSYBOX, "sleep 1000")]);
        let run = magikrun.pod_run(&web);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let other = pod("other", &[container("c", BUSYBOX, "sleep 1000")]);
        fs::write(scene.dir().join("pod.yaml"), other.to_string()).expect("pod.yaml");
        env::set_current_dir(scene.dir()).expect("the scene");
        let mut wrong = Vec::new();
        for (line, answer) in HABITS {
            let words = shlex::split(line).expect(line);
            let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
            let out = magikrun.run(&words);
            // Where a command has come since, it works: that is as good as an answer.
            let works = out.code == 0;
            let one_line = out.stderr.lines().count() == 1 && out.stdout.is_empty();
            let answered = answer.is_some_and(|part| one_line && out.stderr.contains(part));
            if !works && !answered {
                wrong.push(format!("$ {line}\n  {out:?}"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        // No answer has done anything.
        assert!(magikrun.pods().contains(&"web".to_owned()));
        magikrun.ok(&["pod", "delete", "--force", "--all"]);
    }
);
