//! Some thousand hostile `config.json`: missing parts, wrong types, huge values, paths that lead out. Whatever they say, the runtime
//! answers with an exit code of its own, touches nothing outside of the container, and leaves nothing.
//!
//! The variants come from a seeded generator, so a failure repeats: `MAGIKRUN_HOSTILE_SPECS=count[@seed]`.
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "the harness is the conformance suite's; the test reports"
)]

#[path = "conformance/harness.rs"]
mod harness;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use harness::Runtime;
use magikrun_tests::isolated;
use serde_json::{Value, json};

/// xorshift64*: the same numbers on every machine and version.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).expect("31 bits") % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What a value may be replaced with.
fn poison(numbers: &mut Numbers, canary: &Path) -> Value {
    let canary = canary.display().to_string();
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(""),
        json!("/"),
        json!("."),
        json!(".."),
        json!("../../../../../../.."),
        json!("/proc/self/fd/3"),
        json!("/proc/1/root"),
        json!("/sys/fs/cgroup"),
        json!("a\u{0}b"),
        json!("\u{202e}%s%n\n\u{1b}[2J"),
        json!("x".repeat(70_000)),
        json!(format!("../../..{canary}/new")),
        json!(format!("{canary}/new")),
        json!([]),
        json!({}),
        json!(["a", "a"]),
        json!([{}]),
        json!([null]),
        deep,
    ];
    numbers.pick(&values).clone()
}

/// The pointers of every value in a document.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            pointers(
                v,
                &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                all,
            );
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), all)),
        _ => (),
    }
}

/// Parts beyond the harness' plain configuration, so that there is more to poison.
fn rich(mut config: Value, canary: &Path) -> Value {
    config["annotations"] = json!({"a": "b"});
    config["domainname"] = json!("d");
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "hard": 4, "soft": 4}]);
    config["process"]["oomScoreAdj"] = json!(1);
    config["process"]["user"]["additionalGids"] = json!([5]);
    config["process"]["user"]["umask"] = json!(18);
    config["mounts"].as_array_mut().expect("mounts").extend([
        json!({"destination": "/mnt/canary", "type": "bind", "source": canary, "options": ["bind", "ro"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
    ]);
    let linux = &mut config["linux"];
    linux["maskedPaths"] = json!(["/proc/kcore", "/proc/keys"]);
    linux["readonlyPaths"] = json!(["/proc/sys", "/proc/bus"]);
    linux["rootfsPropagation"] = json!("private");
    linux["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    linux["devices"] = json!([{"path": "/dev/test", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}]);
    linux["resources"]["pids"] = json!({"limit": 100});
    linux["resources"]["memory"] = json!({"limit": 67_108_864});
    linux["resources"]["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"});
    linux["resources"]["unified"] = json!({"pids.max": "100"});
    linux["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]});
    config
}

/// A document with one to three of its values poisoned, removed or doubled.
fn variant(plain: &Value, numbers: &mut Numbers, canary: &Path) -> (Value, String) {
    let (mut config, mut told) = (plain.clone(), Vec::new());
    for _ in 0..=numbers.below(3) {
        let mut all = Vec::new();
        pointers(&config, "", &mut all);
        let at = numbers.pick(&all).clone();
        match numbers.below(8) {
            0 => {
                let (parent, key) = at.rsplit_once('/').unwrap_or(("", ""));
                if let Some(Value::Object(map)) = config.pointer_mut(parent) {
                    map.remove(&key.replace("~1", "/").replace("~0", "~"));
                }
                told.push(format!("{at} removed"));
            }
            1 => {
                if let Some(Value::Array(list)) = config.pointer_mut(&at)
                    && let Some(first) = list.first().cloned()
                {
                    let times = *numbers.pick(&[1, 2, 3000]);
                    list.extend(std::iter::repeat_n(first, times));
                    told.push(format!("{at} repeats its first {times} times"));
                }
            }
            _ => {
                let value = poison(numbers, canary);
                let shown: String = value.to_string().chars().take(60).collect();
                told.push(format!("{at} = {shown}"));
                if let Some(place) = config.pointer_mut(&at) {
                    *place = value;
                }
            }
        }
    }
    (config, told.join("; "))
}

/// Everything below a directory: path, kind, mode and content's length.
fn tree(dir: &Path, all: &mut BTreeSet<String>) {
    use std::os::unix::fs::MetadataExt;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        all.insert(format!(
            "{} {:o} {}",
            path.display(),
            meta.mode(),
            if meta.is_dir() { 0 } else { meta.len() }
        ));
        if meta.is_dir() {
            tree(&path, all);
        }
    }
}

/// What must be the same after every variant: the canary, the mounts, the cgroups, the host's names and settings.
fn outside(canary: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    tree(canary, &mut all);
    for file in [
        "/proc/self/mountinfo",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/domainname",
        "/proc/sys/net/ipv4/ip_forward",
    ] {
        all.extend(
            fs::read_to_string(file)
                .unwrap_or_default()
                .lines()
                .map(|l| format!("{file}: {l}")),
        );
    }
    // `/magikrun` itself is where containers go that name no cgroup; it stays.
    for hierarchy in ["memory", "pids", "cpu", "devices", "freezer", ""] {
        let root = Path::new("/sys/fs/cgroup").join(hierarchy);
        for dir in [root.clone(), root.join("magikrun")] {
            let entries = fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path());
            all.extend(
                entries
                    .filter(|p| p.is_dir() && !p.ends_with("magikrun"))
                    .map(|p| p.display().to_string()),
            );
        }
    }
    all
}

isolated!(
    fn hostile_configurations_neither_crash_nor_escape(scene) {
        let wanted = std::env::var("MAGIKRUN_HOSTILE_SPECS").unwrap_or_else(|_| "2000".into());
        let (count, seed) = wanted.split_once('@').unwrap_or((&wanted, "20251124"));
        let (count, mut numbers) = (count.parse().expect("count[@seed]"), Numbers(seed.parse().expect("count[@seed]")));
        let canary = scene.dir().join("canary");
        fs::create_dir_all(canary.join("dir")).unwrap();
        fs::write(canary.join("dir/file"), "untouched").unwrap();

        let runtime = Runtime::new("magikrun", magikrun_tests::binary());
        // The cgroup that all containers of this test share as a parent is made by the first one and stays.
        let warm_up = runtime.bundle("true").unwrap();
        warm_up.create().expect("the plain configuration works");
        drop(warm_up);
        let before = outside(&canary);

        let mut accepted = 0;
        for number in 0..count {
            let mut bundle = runtime.bundle("true").unwrap();
            let (config, told) = variant(&rich(bundle.config.clone(), &canary), &mut numbers, &canary);
            bundle.config = config;
            let what = format!("variant {number} of seed {seed}: {told}");

            let output = bundle.create_with(&[]).unwrap_or_else(|e| panic!("{what}: {e:#}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.signal().is_none(), "{what}: ended by a signal: {said}");
            assert!(!said.contains("panicked"), "{what}: {said}");
            if output.status.success() {
                accepted += 1;
            } else {
                assert!(!said.trim().is_empty(), "{what}: refused without a word");
            }
            let deleted = bundle.op("delete", &["--force"]).unwrap_or_else(|e| panic!("{what}: {e:#}"));
            assert!(deleted.status.success(), "{what}: delete --force: {}", String::from_utf8_lossy(&deleted.stderr));
            bundle.fails("state", &[]).unwrap_or_else(|_| panic!("{what}: it is still there after delete"));

            let after = outside(&canary);
            assert!(
                after == before,
                "{what}: outside of the container changed: gone {:?}, new {:?}",
                before.difference(&after).collect::<Vec<_>>(),
                after.difference(&before).collect::<Vec<_>>()
            );
        }
        eprintln!("{count} variants, {accepted} accepted as containers");
        assert!(accepted > 0 && accepted < count, "the generator is off: {accepted} of {count} accepted");
    }
);

#[test]
fn a_seed_gives_the_same_variants_every_time() {
    let plain = json!({"a": [1, 2], "b": {"c": "d"}});
    let made = || {
        let mut numbers = Numbers(7);
        (0..50)
            .map(|_| variant(&plain, &mut numbers, Path::new("/canary")).1)
            .collect::<Vec<_>>()
    };
    assert_eq!(made(), made());
    assert!(
        made().iter().collect::<BTreeSet<_>>().len() > 25,
        "the variants differ"
    );
}
