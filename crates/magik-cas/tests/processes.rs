//! What several processes see of one store. The other process is this test binary, started again with a role.
#![allow(missing_docs)]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use magik_cas::{Algorithm, Digest, Durability, Store};

const ROLE: &str = "MAGIK_CAS_TEST_ROLE";
const ROOT: &str = "MAGIK_CAS_TEST_ROOT";
const SIZE: usize = 200_000;

fn open(root: &str) -> Store {
    Store::open(root).unwrap().with_durability(Durability::None)
}

fn content(n: u8) -> Vec<u8> {
    vec![n; SIZE]
}

/// Not a test of its own: what the other process does. It says so on stderr when it has got where it should, and then does
/// what its standard input's end asks it to: go on.
#[test]
fn role() {
    let Ok(role) = env::var(ROLE) else { return };
    let store = open(&env::var(ROOT).unwrap());
    let reached = || {
        writeln!(std::io::stdout(), "reached").unwrap();
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    };
    match role.as_str() {
        "ingest" => {
            let mut writer = store.begin(Algorithm::Sha256, u64::MAX).unwrap();
            writer.write_all(&content(1)[..SIZE / 2]).unwrap();
            reached();
            writer.write_all(&content(1)[SIZE / 2..]).unwrap();
            writer
                .commit(&Digest::sha256(&content(1)), Some(SIZE as u64))
                .unwrap();
        }
        "lease" => {
            let _lease = store.lease().unwrap();
            reached();
        }
        "churn" => {
            reached();
            for round in 0..200_u8 {
                let bytes = content(round % 4);
                let lease = store.lease().unwrap();
                let mut writer = store.begin(Algorithm::Sha256, u64::MAX).unwrap();
                writer.write_all(&bytes).unwrap();
                let digest = Digest::sha256(&bytes);
                writer.commit(&digest, None).unwrap();
                // The lease was there before the blob: no gc can have taken it.
                assert_eq!(store.read(&digest, u64::MAX).unwrap(), bytes);
                drop(lease);
            }
        }
        other => unreachable!("{other}"),
    }
}

struct Other {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn start(role: &str, root: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, role)
            .env(ROOT, root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("reached\n") {
            line.clear();
            assert!(
                output.read_line(&mut line).unwrap() > 0,
                "the other process ended early"
            );
        }
        Self { child, output }
    }

    fn go_on(&mut self) {
        drop(self.child.stdin.take());
    }

    fn finish(mut self) {
        self.go_on();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_blob_under_way_is_seen_by_nobody_until_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let store = open(root);
    let digest = Digest::sha256(&content(1));
    let other = Other::start("ingest", root);
    assert_eq!(store.stat(&digest).unwrap(), None);
    assert!(store.list().unwrap().is_empty());
    assert!(
        store.try_exclusive().unwrap().is_none(),
        "gc must wait for the ingest"
    );
    other.finish();
    assert_eq!(store.read(&digest, u64::MAX).unwrap(), content(1));
}

#[test]
fn kill_9_during_an_ingest_leaves_only_what_gc_sweeps() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let store = open(root);
    Other::start("ingest", root).kill();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 1);
    let report = store.gc(|_| true).unwrap();
    assert_eq!((report.temporary, report.bytes), (1, SIZE as u64 / 2));
    assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
}

#[test]
fn gc_waits_for_the_lease_of_another_process_however_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let store = open(root);
    let used = store.put_bytes(b"used by the other").unwrap();
    let other = Other::start("lease", root);
    assert!(store.try_exclusive().unwrap().is_none());
    std::thread::scope(|scope| {
        let gc = scope.spawn(|| store.gc(|_| false).unwrap());
        // Whatever gc does by now, it has not taken the blob.
        assert!(store.stat(&used).unwrap().is_some());
        other.kill();
        assert_eq!(gc.join().unwrap().blobs, 1);
    });
}

#[test]
fn writers_of_two_processes_and_gc_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let store = open(root);
    let mut others = [Other::start("churn", root), Other::start("churn", root)];
    others.iter_mut().for_each(Other::go_on);
    for _ in 0..100 {
        store.gc(|_| false).unwrap();
        for blob in store.list().unwrap() {
            // It may be gone again, but if it is there it is whole.
            match store.read(&blob.digest, u64::MAX) {
                Ok(bytes) => assert_eq!(bytes.len(), SIZE),
                Err(magik_cas::Error::NotFound(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
    others.into_iter().for_each(Other::finish);
    assert!(store.verify().unwrap().is_empty());
    store.gc(|_| false).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
}
