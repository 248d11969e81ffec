//! In a process with one thread: a command line, and a pod's init. libtest always has threads, so these tests have a
//! harness of their own, which speaks as much of libtest's command line as cargo and nextest need.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test harness")]

mod common;

use std::{fs, future::Future, os::unix::fs::PermissionsExt, process::ExitCode};

use common::{Fixture, can_run, cgroup_root, output, read_all};
use magik_oci::{CreateOptions, Error, Exit, OciRuntime, Signal, Status, Stdio};
use oci_native::NativeRuntime;
use serde_json::json;

const TESTS: &[(&str, fn())] = &[
    (
        "a_container_lives_and_dies_by_fork",
        a_container_lives_and_dies_by_fork,
    ),
    (
        "one_process_creates_and_another_starts_and_deletes",
        one_process_creates_and_another_starts_and_deletes,
    ),
    (
        "a_created_container_holds_nothing_of_a_forking_creator",
        a_created_container_holds_nothing,
    ),
    (
        "create_does_not_change_its_caller",
        create_does_not_change_its_caller,
    ),
    (
        "a_pods_init_reaps_orphans_and_loses_no_exit",
        a_pods_init_reaps_orphans_and_loses_no_exit,
    ),
    (
        "only_what_is_preserved_is_inherited",
        only_what_is_preserved_is_inherited,
    ),
    (
        "sealing_makes_the_own_binary_unwritable",
        sealing_makes_the_own_binary_unwritable,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "--sealed") {
        return sealed();
    }
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|a| a == "--exact");
    let filters: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| {
                if exact {
                    name == *f
                } else {
                    name.contains(f.as_str())
                }
            })
    };
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        if can_run(name) {
            test();
        }
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    assert_eq!(
        fs::read_dir("/proc/self/task").unwrap().count(),
        1,
        "this process has one thread"
    );
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn a_container_lives_and_dies_by_fork() {
    let f = Fixture::new("echo $GREETING; exit 7");
    let (exit, text) = block_on(f.run());
    assert_eq!((exit, text.as_str()), (Exit::exited(7), "hello\n"));
    f.assert_nothing_left();
    // No worker and no intermediate is left, dead or alive.
    assert!(rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_err());
}

fn one_process_creates_and_another_starts_and_deletes() {
    let f = Fixture::new("exec sleep 1000");
    let in_child = |step: fn(&Fixture)| {
        // SAFETY (of the helper): one thread.
        assert_eq!(fork_and_wait(|| step(&f)), 0);
    };
    in_child(|f| {
        let mut options = CreateOptions::default();
        options.pid_file = Some(f.dir.path().join("pid"));
        block_on(f.runtime.create(&f.id, &f.bundle(), Stdio::default(), options))
            .map(drop)
            .unwrap();
    });
    let pid: i32 = fs::read_to_string(f.dir.path().join("pid"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(block_on(f.runtime.state(&f.id)).unwrap().status, Status::Created);
    in_child(|f| block_on(f.runtime.start(&f.id)).unwrap());
    let state = block_on(f.runtime.state(&f.id)).unwrap();
    assert_eq!((state.status, state.pid), (Status::Running, Some(pid)));
    assert!(matches!(
        block_on(f.runtime.wait(&f.id)),
        Err(Error::Unsupported { .. })
    ));
    in_child(|f| block_on(f.runtime.delete(&f.id, true)).unwrap());
    assert!(matches!(
        block_on(f.runtime.state(&f.id)),
        Err(Error::NotFound(_))
    ));
    f.assert_nothing_left();
}

fn a_created_container_holds_nothing() {
    let f = Fixture::new("exec sleep 1000");
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    block_on(async {
        f.create(Stdio::default()).await.unwrap();
        drop(writer);
        assert_eq!(read_all(reader), "");
        f.runtime.delete(&f.id, true).await.unwrap();
    });
    f.assert_nothing_left();
}

fn create_does_not_change_its_caller() {
    let f = Fixture::with("cat /proc/self/oom_score_adj", |c| {
        c["process"]["oomScoreAdj"] = json!(500);
    });
    let seen = || {
        (
            fs::read_to_string("/proc/self/oom_score_adj").unwrap(),
            rustix::process::dumpable_behavior().unwrap() as i32,
            std::env::current_dir().unwrap(),
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027)),
        )
    };
    seen();
    let before = seen();
    let (_, text) = block_on(f.run());
    assert_eq!(text, "500\n");
    assert_eq!(seen(), before);
}

fn a_pods_init_reaps_orphans_and_loses_no_exit() {
    use rustix::thread::UnshareFlags;
    let outer = Fixture::new("true");
    // SAFETY (of the helper): one thread.
    let code = fork_and_wait(|| {
        common::unshare(UnshareFlags::NEWPID | UnshareFlags::NEWNS);
        assert_eq!(fork_and_wait(|| pod_init(&outer)), 0);
    });
    assert_eq!(code, 0);
    assert_eq!(outer.cgroups(), Vec::<std::path::PathBuf>::new());
}

/// PID 1 of a new pid namespace: containers two at a time, some of which leave orphans.
fn pod_init(outer: &Fixture) {
    assert_eq!(std::process::id(), 1);
    common::mount_own_proc();
    let root = outer.root();
    let runtime = NativeRuntime::builder(root.clone())
        .cgroup_root(cgroup_root(&root))
        .reap_orphans(true)
        .build();
    let run = async |n: i32| {
        let f = Fixture::with(&format!("(sleep 0.1; true) & exit {n}"), |c| {
            // The pod's pid namespace is shared: what a container leaves behind becomes an orphan of ours.
            if n % 2 == 0 {
                c["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|ns| ns["type"] != "pid");
            }
        });
        runtime
            .create(&f.id, &f.bundle(), Stdio::default(), CreateOptions::default())
            .await
            .unwrap();
        runtime.start(&f.id).await.unwrap();
        assert_eq!(runtime.wait(&f.id).await.unwrap(), Exit::exited(n));
        if n % 2 == 0 {
            runtime.kill(&f.id, Signal::TERM, true).await.unwrap();
        }
        runtime.delete(&f.id, false).await.unwrap();
    };
    block_on(async {
        for n in 0..4 {
            tokio::join!(run(2 * n + 10), run(2 * n + 11));
        }
        // Whatever is left is reaped, unless it still runs.
        for _ in 0..200 {
            if fs::read_to_string("/proc/self/task/1/children")
                .unwrap()
                .is_empty()
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!(
            "zombies: {}",
            fs::read_to_string("/proc/self/task/1/children").unwrap()
        );
    });
}

fn only_what_is_preserved_is_inherited() {
    // Two descriptors to preserve, and one that must not come along although it is inheritable.
    let keep = tempfile::NamedTempFile::new().unwrap();
    fs::write(keep.path(), "kept").unwrap();
    let f = Fixture::new("cat <&3; ls /proc/self/fd; readlink /proc/self/cwd");
    fs::set_permissions(keep.path(), fs::Permissions::from_mode(0o600)).unwrap();
    // SAFETY (of the helper): one thread.
    let code = fork_and_wait(|| {
        let file = fs::File::open(keep.path()).unwrap();
        common::place(&file, 3);
        common::place(&fs::File::open("/etc").unwrap(), 57);
        let (stdio, reader) = output();
        let mut options = CreateOptions::default();
        options.preserve_fds = 1;
        let text = block_on(async {
            f.runtime
                .create(&f.id, &f.bundle(), stdio, options)
                .await
                .unwrap();
            f.runtime.start(&f.id).await.unwrap();
            f.runtime.wait(&f.id).await.unwrap();
            f.runtime.delete(&f.id, false).await.unwrap();
            read_all(reader)
        });
        // ls has its directory open as 4.
        assert_eq!(text, "kept0\n1\n2\n3\n4\n/\n");
    });
    assert_eq!(code, 0);
    f.assert_nothing_left();
}

fn sealing_makes_the_own_binary_unwritable() {
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::copy("/proc/self/exe", copy.path()).unwrap();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = copy.into_temp_path();
    let output = std::process::Command::new(&path)
        .args(["--sealed", "a b", ""])
        .env("SEAL", "x=y")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        text,
        "[\"a b\", \"\"] x=y\nsh: can't create /proc/self/fd/9: Read-only file system\n"
    );
}

/// The other side: seals itself, then does what CVE-2019-5736 does: keeps a descriptor of the runtime's binary, and writes
/// to it once nothing executes it any more.
fn sealed() -> ExitCode {
    use std::os::unix::process::CommandExt;
    oci_native::seal_self_exe().unwrap();
    let arguments: Vec<_> = std::env::args().skip(2).collect();
    println!("{arguments:?} {}", std::env::var("SEAL").unwrap());
    common::place(&fs::File::open("/proc/self/exe").unwrap(), 9);
    let error = std::process::Command::new(common::busybox())
        .arg0("busybox")
        .args(["sh", "-c", "echo x >> /proc/self/fd/9"])
        .exec();
    println!("{error}");
    ExitCode::FAILURE
}

/// Runs a step in a fork of this process, which has one thread.
fn fork_and_wait(step: impl FnOnce()) -> i32 {
    common::fork_and_wait(step)
}
