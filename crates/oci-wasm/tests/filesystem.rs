//! What a program may not do to files: RUSTSEC-2026-0149, RUSTSEC-2026-0188 and older classes of escapes.

mod common;

use std::{fs, os::unix::fs::symlink, path::Path};

use common::{Host, mount, skipped};

/// All that stands below a directory, with contents and times.
fn picture(directory: &Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let content = fs::read_to_string(entry.path()).unwrap_or_default();
            format!(
                "{:?} {:?} {content:?} {:?}",
                entry.file_name(),
                metadata.modified().unwrap(),
                metadata.len()
            )
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn nothing_in_a_read_only_volume_can_be_changed() {
    if skipped("nothing_in_a_read_only_volume_can_be_changed") {
        return;
    }
    let host = Host::new();
    let (ro, rw) = (host.path("ro"), host.path("rw"));
    for directory in [&ro, &rw] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(ro.join("file"), "precious").unwrap();
    fs::write(rw.join("mine"), "mine").unwrap();
    let before = (picture(&ro), picture(&rw));
    let module = magikrun_test_images::tool_wasm().unwrap();
    let component = magikrun_test_images::component(&module).unwrap();
    for (name, module) in [("module", module), ("component", component)] {
        let bundle = host.bundle(name, &module, &["tamper", "/ro"], |spec| {
            mount(spec, &ro, "/ro", &["bind", "ro"]);
            mount(spec, &rw, "/rw", &["bind"]);
        });
        let outcome = host.run(name, &bundle).await;
        assert_eq!(outcome.exit.code, 0, "{name}: {}", outcome.stdout);
        assert_eq!((picture(&ro), picture(&rw)), before, "{name}: {}", outcome.stdout);
    }
}

#[tokio::test]
async fn the_same_changes_work_where_they_are_allowed() {
    if skipped("the_same_changes_work_where_they_are_allowed") {
        return;
    }
    let host = Host::new();
    let (one, rw) = (host.path("one"), host.path("rw"));
    for directory in [&one, &rw] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(one.join("file"), "text").unwrap();
    fs::write(rw.join("mine"), "mine").unwrap();
    let outcome = host
        .tool(&["tamper", "/one"], |spec| {
            mount(spec, &one, "/one", &["bind"]);
            mount(spec, &rw, "/rw", &["bind"]);
        })
        .await;
    assert!(outcome.exit.code >= 8, "{}", outcome.stdout);
}

#[tokio::test]
async fn a_read_only_root_cannot_be_changed() {
    if skipped("a_read_only_root_cannot_be_changed") {
        return;
    }
    let host = Host::new();
    let outcome = host.tool(&["write", "/new", "x"], |_| {}).await;
    assert_eq!(outcome.exit.code, 1, "{outcome:?}");
    let outcome = host.tool(&["write", "/app.wasm", "x"], |_| {}).await;
    assert_eq!(outcome.exit.code, 1, "{outcome:?}");
    let outcome = host
        .tool(&["write", "/new", "x"], |spec| {
            spec["root"]["readonly"] = false.into();
        })
        .await;
    assert_eq!(outcome.exit.code, 0, "{outcome:?}");
}

#[tokio::test]
async fn no_path_and_no_planted_link_leads_out() {
    if skipped("no_path_and_no_planted_link_leads_out") {
        return;
    }
    let host = Host::new();
    let data = host.path("data");
    let secret = host.path("secret");
    fs::create_dir_all(data.join("inner")).unwrap();
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, data.join("absolute")).unwrap();
    symlink("../secret", data.join("relative")).unwrap();
    symlink("inner/../../secret", data.join("winding")).unwrap();
    symlink("..", data.join("up")).unwrap();
    symlink("/", data.join("top")).unwrap();
    symlink("/proc/self/root", data.join("magic")).unwrap();
    symlink("loop", data.join("loop")).unwrap();
    let absolute = secret.to_str().unwrap();
    let top = format!("/data/top{absolute}");
    let magic = format!("/data/magic{absolute}");
    let outcome = host
        .tool(
            &[
                "escape",
                "/data/../secret",
                "/data/../../../../../../../../etc/passwd",
                "../secret",
                "../../../../../../../../etc/passwd",
                "/data/inner/../../secret",
                absolute,
                "/etc/passwd",
                "/proc/self/environ",
                "/data/absolute",
                "/data/relative",
                "/data/winding",
                "/data/up/secret",
                &top,
                &magic,
                "/data/loop",
            ],
            |spec| mount(spec, &data, "/data", &["bind"]),
        )
        .await;
    assert_eq!(outcome.exit.code, 0, "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("worked"), "{}", outcome.stdout);
}

#[tokio::test]
async fn a_program_cannot_plant_a_link_and_follow_it_out() {
    if skipped("a_program_cannot_plant_a_link_and_follow_it_out") {
        return;
    }
    let host = Host::new();
    let data = host.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(host.path("secret"), "secret").unwrap();
    let volume = |spec: &mut serde_json::Value| mount(spec, &data, "/data", &["bind"]);
    // An absolute link is refused; a relative one may be made, and leads nowhere.
    let outcome = host
        .tool(&["symlink", "/etc/passwd", "/data/absolute"], volume)
        .await;
    assert_eq!(outcome.exit.code, 1, "{outcome:?}");
    host.tool(&["symlink", "../secret", "/data/relative"], volume)
        .await;
    let outcome = host
        .tool(&["escape", "/data/relative", "/data/absolute"], volume)
        .await;
    assert_eq!(outcome.exit.code, 0, "{}", outcome.stdout);
}

#[tokio::test]
async fn refuses_mounts_that_are_no_directories() {
    if skipped("refuses_mounts_that_are_no_directories") {
        return;
    }
    let host = Host::new();
    let file = host.path("file");
    fs::write(&file, "").unwrap();
    let module = magikrun_test_images::hello_wasm().unwrap();
    for (name, source, destination, says) in [
        ("of-a-file", file.clone(), "/config", "only directories"),
        ("of-nothing", host.path("absent"), "/data", "No such file"),
    ] {
        let bundle = host.bundle(name, &module, &[], |spec| {
            mount(spec, &source, destination, &["bind"]);
        });
        let error = host.create(name, &bundle, None).await.err().unwrap().to_string();
        assert!(error.contains(destination) && error.contains(says), "{error}");
    }
    // What every container is given is passed over.
    let bundle = host.bundle("hosts", &module, &[], |spec| {
        mount(spec, &file, "/etc/hosts", &["bind"]);
    });
    assert_eq!(host.run("hosts", &bundle).await.exit.code, 0);
}
