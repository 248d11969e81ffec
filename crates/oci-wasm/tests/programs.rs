//! Real programs, compiled from C.

mod common;

use std::{fs, io::Write};

use common::{Host, annotate, id, mount, skipped};
use magik_oci::OciRuntime;
use oci_wasm::annotations::FUEL;
use serde_json::json;

#[tokio::test]
async fn gives_arguments_and_environment() {
    if skipped("gives_arguments_and_environment") {
        return;
    }
    let host = Host::new();
    let outcome = host
        .tool(&["hello", "two words", ""], |spec| {
            spec["process"]["env"] = json!(["GREETING=hi there", "EMPTY="]);
        })
        .await;
    assert_eq!(outcome.exit.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.stdout,
        "arg /app.wasm\narg hello\narg two words\narg \nenv GREETING=hi there\nenv EMPTY=\n"
    );
    assert_eq!(outcome.stderr, "to stderr\n");
    assert_eq!(outcome.message, None);
}

#[tokio::test]
async fn passes_exit_codes_on() {
    if skipped("passes_exit_codes_on") {
        return;
    }
    let host = Host::new();
    for code in [0, 1, 42, 255] {
        let exit = host.tool(&["exit", &code.to_string()], |_| {}).await.exit;
        assert_eq!((exit.code, exit.signal, exit.reason), (code, None, None));
    }
}

#[tokio::test]
async fn reads_its_standard_input_to_the_end() {
    if skipped("reads_its_standard_input_to_the_end") {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("c", &magikrun_test_images::tool_wasm().unwrap(), &["cat"], |_| {});
    let (reader, mut writer) = std::io::pipe().unwrap();
    let output = host.create("c", &bundle, Some(reader.into())).await.unwrap();
    host.runtime.start(&id("c")).await.unwrap();
    // More than a pipe holds, in both directions.
    let text = "0123456789abcde\n".repeat(20_000);
    let sent = text.clone();
    let feeding = std::thread::spawn(move || writer.write_all(sent.as_bytes()).unwrap());
    let outcome = host.finish("c", output).await;
    feeding.join().unwrap();
    assert_eq!(outcome.exit.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stdout == text,
        "{} of {} bytes",
        outcome.stdout.len(),
        text.len()
    );
}

#[tokio::test]
async fn streams_may_be_files_or_absent() {
    if skipped("streams_may_be_files_or_absent") {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("c", &magikrun_test_images::hello_wasm().unwrap(), &[], |_| {});
    let stdio = magik_oci::Stdio {
        stdout: Some(fs::File::create(host.path("out")).unwrap().into()),
        ..Default::default()
    };
    let options = magik_oci::CreateOptions::default();
    host.runtime
        .create(&id("c"), &bundle, stdio, options)
        .await
        .unwrap();
    host.runtime.start(&id("c")).await.unwrap();
    assert_eq!(host.runtime.wait(&id("c")).await.unwrap().code, 0);
    assert_eq!(fs::read_to_string(host.path("out")).unwrap(), "hello\n");
}

#[tokio::test]
async fn reads_and_writes_its_volumes() {
    if skipped("reads_and_writes_its_volumes") {
        return;
    }
    let host = Host::new();
    let data = host.path("data");
    fs::create_dir(&data).unwrap();
    let outcome = host
        .tool(&["write", "/data/file", "written"], |spec| {
            mount(spec, &data, "/data", &["rbind"]);
        })
        .await;
    assert_eq!(outcome.exit.code, 0, "{outcome:?}");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "written");
    let outcome = host
        .tool(&["read", "/data/file"], |spec| {
            mount(spec, &data, "/data", &["rbind", "ro"]);
        })
        .await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, "written"));
}

#[tokio::test]
async fn sqlite_runs_in_memory_and_on_a_volume() {
    if skipped("sqlite_runs_in_memory_and_on_a_volume") {
        return;
    }
    let host = Host::new();
    let module = magikrun_test_images::sqlite_wasm().unwrap();
    let data = host.path("data");
    fs::create_dir(&data).unwrap();
    for (name, args, fuel) in [
        ("memory", &[][..], "1000000000"),
        ("file", &["/data/db"][..], "1000000000"),
        ("epochs", &[][..], "off"),
    ] {
        let bundle = host.bundle(name, &module, args, |spec| {
            mount(spec, &data, "/data", &["rbind"]);
            annotate(spec, FUEL, fuel);
        });
        let outcome = host.run(name, &bundle).await;
        assert_eq!(outcome.stdout, "1000 rows, sum 500500\n", "{name}: {outcome:?}");
        let stats = host.runtime.stats(&id(name)).await.unwrap();
        assert_eq!(
            stats.fuel.is_some_and(|f| f > 1_000_000),
            fuel != "off",
            "{stats:?}"
        );
        assert!(stats.memory.peak > 1 << 17, "{stats:?}");
    }
    assert!(
        fs::read(data.join("db"))
            .unwrap()
            .starts_with(b"SQLite format 3\0")
    );
}

#[tokio::test]
async fn a_component_is_a_program_as_well() {
    if skipped("a_component_is_a_program_as_well") {
        return;
    }
    let host = Host::new();
    let module = magikrun_test_images::component(&magikrun_test_images::tool_wasm().unwrap()).unwrap();
    let data = host.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "in a file").unwrap();
    let volume = |spec: &mut serde_json::Value| mount(spec, &data, "/data", &["rbind", "ro"]);
    let bundle = host.bundle("hello", &module, &["hello", "x"], volume);
    let outcome = host.run("hello", &bundle).await;
    assert_eq!(outcome.exit.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.stdout,
        "arg /app.wasm\narg hello\narg x\nenv PATH=/usr/bin:/bin\n"
    );
    assert_eq!(outcome.stderr, "to stderr\n");
    let bundle = host.bundle("read", &module, &["read", "/data/file"], volume);
    assert_eq!(host.run("read", &bundle).await.stdout, "in a file");
    let bundle = host.bundle("write", &module, &["write", "/data/file", "x"], volume);
    assert_eq!(host.run("write", &bundle).await.exit.code, 1);
    let bundle = host.bundle("exit", &module, &["exit", "7"], volume);
    // wasi:cli/exit 0.2 knows only success and failure.
    assert_eq!(host.run("exit", &bundle).await.exit.code, 1);
}

#[tokio::test]
async fn the_program_is_looked_up_along_path() {
    if skipped("the_program_is_looked_up_along_path") {
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("c", &magikrun_test_images::hello_wasm().unwrap(), &[], |spec| {
        spec["process"]["args"] = json!(["hello.wasm"]);
    });
    fs::create_dir_all(bundle.join("rootfs/usr/bin")).unwrap();
    fs::rename(
        bundle.join("rootfs/app.wasm"),
        bundle.join("rootfs/usr/bin/hello.wasm"),
    )
    .unwrap();
    assert_eq!(host.run("c", &bundle).await.stdout, "hello\n");
}
