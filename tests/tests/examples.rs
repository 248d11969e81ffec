//! Every pod of docs/examples is run, and does what its comment says; and what some pages have in
//! blocks of code is done as a reader does it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
};

use magik_pri::PodSpec;
use magikrun_tests::{
    BUSYBOX, Magikrun, Scene, busybox_layout, has_machines, isolated, redis_nginx_layout, wait_for,
};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use serde_json::Value;

/// The examples whose pods are native; each is a test below, as those of `OTHERS` are.
const NATIVE: [&str; 9] = [
    "host-path",
    "host-port",
    "init-containers",
    "job",
    "limits",
    "probes",
    "restricted",
    "shared-volume",
    "web",
];
const OTHERS: [&str; 2] = ["microvm", "wasm"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

fn path(file: &str) -> String {
    directory().join(file).display().to_string()
}

#[test]
fn every_example_has_a_comment_and_a_test() {
    let mut found = Vec::new();
    let list = fs::read_to_string(path("README.md")).expect("the list of examples");
    for entry in fs::read_dir(directory()).expect("examples").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("an example");
        let spec = PodSpec::from_yaml(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.file_stem().expect("a name").display().to_string();
        assert_eq!(spec.name, name, "an example's pod is called as its file");
        assert!(text.starts_with("# "), "{name}: no comment says what it shows");
        let link = format!("[{name}.yaml]({name}.yaml)");
        assert!(
            list.contains(&link),
            "docs/examples/README.md does not list {name}"
        );
        found.push(name);
    }
    found.sort();
    let mut tested = [&NATIVE[..], &OTHERS].concat();
    tested.sort_unstable();
    assert_eq!(found, tested);
}

/// magikrun with the image `busybox` in its store.
fn with_busybox(scene: &Scene) -> Magikrun {
    let magikrun = Magikrun::new(scene);
    let layout = busybox_layout(&scene.dir().join("layout"));
    magikrun.ok(&["image", "pull", "-q", &layout.reference(BUSYBOX)]);
    magikrun.ok(&["image", "tag", BUSYBOX, "busybox"]);
    magikrun
}

/// Runs an example and returns when its containers run.
fn start(magikrun: &Magikrun, name: &str) {
    magikrun.ok(&["pod", "run", "-f", &path(&format!("{name}.yaml"))]);
}

fn log(magikrun: &Magikrun, pod: &str, container: &str) -> String {
    magikrun.ok(&["pod", "logs", "-c", container, pod])
}

/// Waits for a container to write something.
#[track_caller]
fn says(magikrun: &Magikrun, pod: &str, container: &str, text: &str) {
    let what = format!("{text:?} in the log of {container} of {pod}");
    wait_for(&what, || log(magikrun, pod, container).contains(text));
}

fn container(status: &Value, name: &str) -> Value {
    let containers = status["containers"].as_array().expect("containers");
    let found = containers.iter().find(|c| c["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {status}")).clone()
}

/// Deletes a pod, after which none is left.
fn delete(magikrun: &Magikrun, name: &str) {
    magikrun.ok(&["pod", "delete", "--force", name]);
    assert_eq!(magikrun.pods(), Vec::<String>::new(), "after {name}");
}

isolated!(
    fn the_web_server_answers_its_client(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "web");
        says(&magikrun, "web", "client", "hello from web\n");
        delete(&magikrun, "web");
    }
);

isolated!(
    fn the_job_ends_with_its_result_and_leaves_nothing(scene) {
        let magikrun = with_busybox(scene);
        let file = path("job.yaml");
        magikrun.ok(&["pod", "run", "--wait", "-f", &file]);
        assert_eq!(log(&magikrun, "job", "sum"), "the sum is 5050\n");
        delete(&magikrun, "job");
        magikrun.ok(&["pod", "run", "--wait", "--rm", "-f", &file]);
        assert_eq!(magikrun.pods(), Vec::<String>::new());
    }
);

isolated!(
    fn init_containers_have_run_in_order_before_the_app(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "init-containers");
        says(&magikrun, "init-containers", "app", "the app\n");
        assert_eq!(log(&magikrun, "init-containers", "app"), "first\nsecond\nthe app\n");
        delete(&magikrun, "init-containers");
    }
);

isolated!(
    fn who_needs_more_memory_than_its_limit_is_killed_alone(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "limits");
        let status = || magikrun.json(&["pod", "status", "limits"]);
        wait_for("the end of greedy", || !container(&status(), "greedy")["state"]["exit"].is_null());
        let status = status();
        assert_eq!(container(&status, "greedy")["state"]["exit"]["oomKilled"], true, "{status}");
        assert!(container(&status, "modest")["state"]["exit"].is_null(), "{status}");
        let table = magikrun.ok(&["pod", "status", "limits"]);
        assert!(table.contains("out of memory"), "{table}");
        let stats = magikrun.json(&["pod", "stats", "limits"]).to_string();
        assert!(stats.contains(&(32 << 20).to_string()), "the limit of modest: {stats}");
        delete(&magikrun, "limits");
    }
);

isolated!(
    fn a_server_that_is_asked_says_whether_it_is_ready(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "probes");
        let status = || magikrun.json(&["pod", "status", "probes"]);
        wait_for("it to be ready", || container(&status(), "server")["ready"] == true);
        magikrun.ok(&["pod", "exec", "-c", "server", "probes", "--", "touch", "/tmp/maintenance"]);
        wait_for("it not to be ready", || container(&status(), "server")["ready"] == false);
        assert_eq!(container(&status(), "server")["restartCount"], 0);
        delete(&magikrun, "probes");
    }
);

isolated!(
    fn two_containers_share_a_volume(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "shared-volume");
        says(&magikrun, "shared-volume", "reader", "UTC");
        delete(&magikrun, "shared-volume");
    }
);

isolated!(
    fn a_file_of_the_host_is_read_and_not_written(scene) {
        let magikrun = with_busybox(scene);
        let before = fs::read("/etc/os-release").expect("os-release");
        start(&magikrun, "host-path");
        says(&magikrun, "host-path", "app", "it cannot be written\n");
        says(&magikrun, "host-path", "app", "PRETTY_NAME=");
        assert_eq!(fs::read("/etc/os-release").expect("os-release"), before);
        delete(&magikrun, "host-path");
    }
);

/// Asks a web server on a port of the host for a page.
fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    write!(connection, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

isolated!(
    fn a_port_of_the_host_leads_to_the_pod(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "host-port");
        // The server listens some time after it was started.
        wait_for("an answer", || ask(8088, "/").is_ok_and(|answer| answer.ends_with("\r\n\r\nhello from the pod\n")));
        delete(&magikrun, "host-port");
        assert!(ask(8088, "/").is_err(), "nobody listens when the pod is gone");
    }
);

isolated!(
    fn the_restricted_pod_has_few_rights_and_users_of_its_own(scene) {
        let magikrun = with_busybox(scene);
        start(&magikrun, "restricted");
        says(&magikrun, "restricted", "app", "uid=1000 gid=1000");
        says(&magikrun, "restricted", "app", "the root is read-only\n");
        let inside = |file: &str| magikrun.ok(&["pod", "exec", "restricted", "--", "cat", file]);
        let status = inside("/proc/self/status");
        for line in ["NoNewPrivs:\t1", "CapBnd:\t0000000000000000", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let users = inside("/proc/self/uid_map");
        let host = users.split_whitespace().nth(1).and_then(|id| id.parse::<u32>().ok());
        assert!(host.is_some_and(|id| id > 0), "{users}");
        delete(&magikrun, "restricted");
    }
);

isolated!(
    fn the_program_of_webassembly_is_made_from_text_and_runs(scene) {
        let magikrun = Magikrun::new(scene);
        magikrun.ok(&["image", "load", "-q", "-i", &path("hello.wat"), "-t", "localhost/hello:1"]);
        magikrun.ok(&["pod", "run", "--wait", "-f", &path("wasm.yaml")]);
        assert_eq!(log(&magikrun, "wasm", "hello"), "hello from WebAssembly\n");
        delete(&magikrun, "wasm");
    }
);

isolated!(
    fn the_microvm_has_a_kernel_of_its_own(scene) {
        if !has_machines(scene.dir()) {
            return;
        }
        let magikrun = with_busybox(scene);
        start(&magikrun, "microvm");
        says(&magikrun, "microvm", "app", "kernel ");
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the host's kernel");
        let guest = log(&magikrun, "microvm", "app");
        assert_ne!(guest.trim_start_matches("kernel ").trim(), host.trim());
        delete(&magikrun, "microvm");
    }
);

/// The first block of code of a page that is in a language.
fn block(page: &str, language: &str) -> String {
    let text = fs::read_to_string(directory().join("..").join(page)).expect("a page");
    let mut found: Option<String> = None;
    for event in Parser::new(&text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(of))) if *of == *language => {
                found = Some(String::new());
            }
            Event::Text(text) => found.iter_mut().for_each(|found| found.push_str(&text)),
            Event::End(TagEnd::CodeBlock) if found.is_some() => break,
            _ => {}
        }
    }
    found.unwrap_or_else(|| panic!("{page}: no block of {language}"))
}

isolated!(
    fn the_quick_start_of_webassembly_works_as_it_is_written(scene) {
        let magikrun = Magikrun::new(scene);
        let program = scene.dir().join("hello.wat");
        fs::write(&program, block("quick-start/wasm.md", "wat")).expect("a program");
        let program = program.to_str().expect("UTF-8");
        magikrun.ok(&["image", "load", "-q", "-i", program, "-t", "localhost/hello:1"]);
        let pod = magikrun.manifest(block("quick-start/wasm.md", "yaml"));
        magikrun.ok(&["pod", "run", "-f", &pod, "--wait"]);
        assert_eq!(magikrun.ok(&["pod", "logs", "wasm"]), "hello from WebAssembly\n");
        delete(&magikrun, "wasm");
    }
);

isolated!(
    fn the_web_app_counts_its_visits_and_goes_on_after_it_was_replaced(scene) {
        let magikrun = with_busybox(scene);
        let images = redis_nginx_layout(&scene.dir().join("redis"));
        let id = magikrun.ok(&["image", "pull", "-q", &images.reference("redis")]);
        magikrun.ok(&["image", "tag", id.trim(), "redis:7"]);
        let data = scene.dir().join("counter").display().to_string();
        let pod = block("how-to/web-and-database.md", "yaml").replace("/srv/counter", &data);
        // Debian's image, unlike the official one, does not become another user by itself.
        let pod = magikrun.manifest(pod.replace("      image: redis:7\n", "      image: redis:7\n      securityContext: {runAsUser: 0}\n"));
        magikrun.ok(&["pod", "run", "-f", &pod]);
        let visit = |number: u32| {
            // An error of the database is no number: it is asked again until it listens.
            let end = format!("\n\n{number}");
            wait_for(&format!("visit {number}"), || {
                let answer = ask(8080, "/cgi-bin/visits").unwrap_or_default().replace('\r', "");
                answer.trim_end().ends_with(&end)
            });
        };
        visit(1);
        visit(2);
        let counted = magikrun.ok(&["pod", "exec", "-c", "database", "counter", "--", "redis-cli", "GET", "visits"]);
        assert_eq!(counted.trim(), "2");
        magikrun.ok(&["pod", "restart", "-c", "web", "counter"]);
        visit(3);
        magikrun.ok(&["pod", "stop", "counter"]);
        magikrun.ok(&["pod", "delete", "-f", &pod]);
        magikrun.ok(&["pod", "run", "-f", &pod]);
        visit(4);
        delete(&magikrun, "counter");
    }
);
