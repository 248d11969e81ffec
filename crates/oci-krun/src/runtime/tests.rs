//! What the runtime refuses, and what it hears of its program.

use super::*;

fn runtime(root: &Path) -> KrunRuntime {
    let native = NativeRuntime::builder(root.to_owned()).build();
    KrunRuntime::new(native, root.to_owned(), root.join("state"), None)
}

#[tokio::test]
async fn without_its_program_no_container_is_made_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let id = ContainerId::new("c").unwrap();
    let runtime = runtime(dir.path());
    let made = runtime
        .create(&id, dir.path(), Stdio::default(), CreateOptions::default())
        .await;
    let error = made.unwrap_err().to_string();
    assert!(
        error.contains("runtime krun: magikrun-vm is not installed: it belongs beside magikrun"),
        "{error}"
    );
    assert!(!KrunRuntime::has(dir.path(), &id));
    fs::create_dir_all(runtime.dir(&id)).unwrap();
    assert!(KrunRuntime::has(dir.path(), &id));
}

#[tokio::test]
async fn what_no_machine_has_is_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let id = ContainerId::new("c").unwrap();
    let mut options = CreateOptions::default();
    options.preserve_fds = 1;
    let made = runtime(dir.path())
        .create(&id, dir.path(), Stdio::default(), options)
        .await;
    assert!(matches!(made, Err(Error::Unsupported { .. })), "{made:?}");
    let updated = runtime(dir.path()).update(&id, &LinuxResources::default()).await;
    assert!(matches!(updated, Err(Error::Unsupported { .. })), "{updated:?}");
}

#[test]
fn a_report_is_one_line_and_an_end_without_one_is_none() {
    let report = |line: &str| {
        let (reading, writing) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writing, line.as_bytes()).unwrap();
        drop(writing);
        read_report(&reading, None).unwrap()
    };
    let line = |report: &Report| serde_json::to_string(report).unwrap() + "\n";
    assert!(matches!(report(&line(&Report::Started)), Some(Report::Started)));
    let failed = report(&line(&Report::Failed("why".to_owned())));
    assert!(matches!(failed, Some(Report::Failed(why)) if why == "why"));
    assert!(report("").is_none());
    assert!(report("\"start").is_none(), "cut short");
}
