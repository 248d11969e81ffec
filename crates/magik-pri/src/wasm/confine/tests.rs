//! A process that is confined, and then does what a program that broke out of wasmtime would do.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::symlink,
};

use magik_infra::StateDir;
use rustix::{
    fs::{AtFlags, CWD, FileType, makedev, mknodat},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_change},
    thread::UnshareFlags,
};

use super::*;

const RECORD: &str = "1234 5678\n";

/// A pod's directories.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in [
            "state",
            "sandbox/containers/c/rootfs",
            "data/logs",
            "data/volumes/v",
            "data/rw/c/upper",
        ] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let place = Self { dir };
        for name in [
            "state/init",
            "state/spec.json",
            "state/status.json",
            "sandbox/containers/c/config.json",
        ] {
            fs::write(place.path(name), RECORD).unwrap();
        }
        let node = place.path("data/volumes/v/zero");
        mknodat(
            CWD,
            &node,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(1, 5),
        )
        .unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// What is said by `attack` in a process that was confined as a pod's is. It has one thread, as a pod's then has.
#[allow(
    unsafe_code,
    clippy::print_stderr,
    reason = "there is no safe fork; a skipped test says so"
)]
fn confined(
    test: &str,
    attack: impl FnOnce(&Place, &OwnedFd) -> Vec<String>,
) -> Option<(Place, Vec<String>)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    let place = Place::new();
    let (mut said, mut saying) = std::io::pipe().unwrap();
    // SAFETY: the child makes system calls and allocates, which glibc allows after a fork, and ends without returning.
    if unsafe { libc::fork() } == 0 {
        let run = || {
            // SAFETY: no descriptors are shared with anybody.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
            mount_change(
                "/",
                MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
            )?;
            let launchers = fs::File::open(place.path("state"))?;
            let state = own_view(launchers.into())?;
            let arguments = Arguments::of_root(place.path("data"), place.path("sandbox"));
            let plan = serde_json::from_str(
                r#"{"id": "i", "name": "p", "namespace": "n", "containers": [], "gracePeriodS": 1}"#,
            )?;
            confine(&arguments, &plan, &state)?;
            Ok::<_, io::Error>(attack(&place, &state))
        };
        let lines = run().unwrap_or_else(|e| vec![format!("not confined: {e}")]);
        let _ = saying.write_all(lines.join("\n").as_bytes());
        // SAFETY: the test's own process goes on elsewhere; nothing of it is to be dropped here.
        unsafe { libc::_exit(0) };
    }
    drop(saying);
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    // SAFETY: this process waits for its own child.
    unsafe { libc::wait(std::ptr::null_mut()) };
    assert!(!text.contains("not confined"), "{text}");
    let lines = text.lines().map(str::to_owned).collect();
    Some((place, lines))
}

/// What worked of these.
fn worked<T>(attempts: Vec<(&str, Result<T, Errno>)>) -> Vec<String> {
    let worked = attempts.into_iter().filter(|(_, result)| result.is_ok());
    worked.map(|(name, _)| name.to_owned()).collect()
}

fn open_to_write(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK,
        Mode::empty(),
    )
}

#[test]
fn the_hosts_records_of_a_pod_cannot_be_changed() {
    let name = "the_hosts_records_of_a_pod_cannot_be_changed";
    let attacked = confined(name, |place, state| {
        let at = AtFlags::empty();
        let new = |name| {
            rustix::fs::openat(
                state,
                name,
                OFlags::WRONLY | OFlags::CREATE,
                Mode::from_raw_mode(0o600),
            )
        };
        let init = place.path("state/init");
        worked(vec![
            ("opened to be written", open_to_write(&init).map(drop)),
            (
                "opened through the directory",
                rustix::fs::openat(state, "init", OFlags::RDWR, Mode::empty()).map(drop),
            ),
            (
                "replaced",
                new("mine").and_then(|_| rustix::fs::renameat(state, "mine", state, "init")),
            ),
            ("moved away", rustix::fs::renameat(state, "init", state, "other")),
            ("removed", rustix::fs::unlinkat(state, "init", at)),
            (
                "the specification removed",
                rustix::fs::unlinkat(state, "spec.json", at),
            ),
            ("uncovered", rustix::mount::unmount(&init, UnmountFlags::DETACH)),
            (
                "the directory moved away",
                rustix::fs::rename(place.path("state"), place.path("elsewhere")),
            ),
            (
                "written where it is shown to the program",
                open_to_write(&place.path("sandbox/containers/c/config.json")).map(drop),
            ),
        ])
    });
    let Some((place, worked)) = attacked else { return };
    assert_eq!(worked, Vec::<String>::new());
    assert_eq!(fs::read_to_string(place.path("state/init")).unwrap(), RECORD);
    assert_eq!(fs::read_to_string(place.path("state/spec.json")).unwrap(), RECORD);
    // The host's own view has no mounts in it: the pod can be deleted.
    fs::rename(place.path("state"), place.path("state.pending")).unwrap();
    fs::remove_dir_all(place.path("state.pending")).unwrap();
}

#[test]
fn nothing_is_left_for_the_host_to_follow_or_to_wait_for() {
    let name = "nothing_is_left_for_the_host_to_follow_or_to_wait_for";
    let attacked = confined(name, |place, state| {
        let secret = Path::new("/etc/shadow");
        let volume = place.path("data/volumes/v");
        let link = |path: PathBuf| {
            symlink(secret, path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::INVAL))
        };
        let _ = link(volume.join("link"));
        let make = |name: &str, kind| {
            mknodat(
                CWD,
                volume.join(name),
                kind,
                Mode::from_raw_mode(0o666),
                makedev(1, 3),
            )
        };
        worked(vec![
            ("a link as log", link(place.path("data/logs/c.log"))),
            (
                "a link from a volume as log",
                rustix::fs::rename(volume.join("link"), place.path("data/logs/c.log")),
            ),
            (
                "a link as status",
                rustix::fs::symlinkat(secret, state, "status.json.new"),
            ),
            ("a link beside the pod", link(place.path("data/link"))),
            ("a pipe", make("pipe", FileType::Fifo)),
            ("a device", make("device", FileType::CharacterDevice)),
            (
                "a device that was there",
                open_to_write(&volume.join("zero")).map(drop),
            ),
            (
                "the image's layer past the overlay",
                open_new(&place.path("data/rw/c/upper/file")),
            ),
        ])
    });
    let Some((_place, worked)) = attacked else { return };
    assert_eq!(worked, Vec::<String>::new());
}

fn open_new(path: &Path) -> Result<(), Errno> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o600)).map(drop)
}

#[test]
fn a_pods_own_work_goes_on() {
    let attacked = confined("a_pods_own_work_goes_on", |place, state| {
        let status = serde_json::from_str(
            r#"{"id": "i", "name": "p", "namespace": "n", "runtimeClass": "wasm", "phase": "Running", "createdAt": "2026-01-01T00:00:00Z", "containers": [], "initContainers": []}"#,
        );
        let state = StateDir::new(rustix::io::fcntl_dupfd_cloexec(state, 0).unwrap());
        let (log, volume) = (place.path("data/logs/c.log"), place.path("data/volumes/v/file"));
        let done: [(&str, io::Result<()>); 5] = [
            (
                "status",
                status
                    .map_err(io::Error::from)
                    .and_then(|status| state.write_status(&status)),
            ),
            ("log", fs::write(&log, "text")),
            ("rotation", fs::rename(&log, place.path("data/logs/c.log.1"))),
            (
                "volume",
                fs::write(&volume, "text").and_then(|()| symlink("file", place.path("data/volumes/v/link"))),
            ),
            (
                "program",
                fs::write(place.path("sandbox/containers/c/rootfs/file"), "text"),
            ),
        ];
        let failed = done
            .into_iter()
            .filter_map(|(name, result)| Some(format!("{name}: {}", result.err()?)));
        failed.collect()
    });
    let Some((place, failed)) = attacked else { return };
    assert_eq!(failed, Vec::<String>::new());
    assert_ne!(
        fs::read_to_string(place.path("state/status.json")).unwrap(),
        RECORD
    );
}
