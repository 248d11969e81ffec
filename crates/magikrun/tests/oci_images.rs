//! What an image must not be able to do through the files that a runtime meets in it: one test per published hole.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use oci_support::{Host, on_terminal};
use serde_json::{Value, json};

/// What is outside of the container and must stay as it is.
struct Outside {
    dir: PathBuf,
    before: Vec<String>,
}

impl Outside {
    fn new(host: &Host) -> Self {
        let dir = host.path("outside");
        fs::create_dir(&dir).unwrap();
        for name in ["file", "null", "console", "ptmx", "passwd"] {
            fs::write(dir.join(name), format!("{name}\n")).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        }
        let before = census(&dir);
        Self { dir, before }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    #[track_caller]
    fn is_as_it_was(&self, attack: &str) {
        assert_eq!(census(&self.dir), self.before, "{attack}");
    }
}

/// Every file with its kind, mode, owner and content.
fn census(dir: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| {
            let (path, about) = (entry.path(), entry.metadata().unwrap());
            let content = match about.file_type() {
                kind if kind.is_file() => fs::read(&path).unwrap(),
                // A link that was planted may lead anywhere, this test's standard input too.
                kind if kind.is_symlink() => fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
                _ => vec![],
            };
            let (mode, owner) = (about.mode(), (about.uid(), about.gid()));
            format!("{} {mode:o} {owner:?} {content:?}", path.display())
        })
        .collect();
    files.sort();
    files
}

/// A container whose `/dev` is the image's own.
fn without_dev(c: &mut Value) {
    let mounts = c["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    c["process"]["user"] = json!({"uid": 33, "gid": 34});
}

/// Whatever becomes of the container, nothing of the host's may change.
#[test]
fn a_dev_null_of_the_image_is_not_what_a_container_gets_cve_2026_88265() {
    let Some(host) = Host::root("a_dev_null_of_the_image_is_not_what_a_container_gets_cve_2026_88265") else {
        return;
    };
    let outside = Outside::new(&host);
    let bundle = host.bundle("c", "echo from the container; echo and more >&2", without_dev);
    for (name, target) in [
        ("null", "null"),
        ("stdout", "file"),
        ("stderr", "file"),
        ("fd", ""),
    ] {
        symlink(outside.file(target), bundle.join("rootfs/dev").join(name)).unwrap();
    }
    // Open streams, and closed ones, for which a runtime opens the null device.
    host.run(&["run", "-b", bundle.to_str().unwrap(), "c"]);
    outside.is_as_it_was("with streams");
    let mut command = host.command(&["run", "-b", bundle.to_str().unwrap(), "c"]);
    let closed = format!("exec {} <&- >&- 2>&-", line(&command));
    command = std::process::Command::new("sh");
    command.args(["-c", &closed]).status().unwrap();
    outside.is_as_it_was("without streams");
}

/// The words of a command for a shell; none of them holds a quote.
fn line(command: &std::process::Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_console_of_the_image_is_not_what_a_terminal_is_put_on_cve_2026_88264() {
    let Some(host) = Host::root("a_console_of_the_image_is_not_what_a_terminal_is_put_on_cve_2026_88264")
    else {
        return;
    };
    let outside = Outside::new(&host);
    let bundle = host.bundle(
        "c",
        "echo from the container; echo at the console >/dev/console",
        |c| {
            without_dev(c);
            c["process"]["terminal"] = json!(true);
        },
    );
    for (name, target) in [
        ("console", "console"),
        ("ptmx", "ptmx"),
        ("tty", "file"),
        ("pts", ""),
    ] {
        symlink(outside.file(target), bundle.join("rootfs/dev").join(name)).unwrap();
    }
    for read_only in [false, true] {
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["root"]["readonly"] = json!(read_only);
        fs::write(&file, config.to_string()).unwrap();
        on_terminal(host.command(&["run", "-b", bundle.to_str().unwrap(), "c"]), "");
        outside.is_as_it_was(if read_only { "read-only" } else { "writable" });
        host.run(&["delete", "--force", "c"]).ok();
    }
}

#[test]
fn a_dev_that_leads_out_is_not_where_devices_are_made_cve_2026_41579() {
    let Some(host) = Host::root("a_dev_that_leads_out_is_not_where_devices_are_made_cve_2026_41579") else {
        return;
    };
    let outside = Outside::new(&host);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("mounted", |_| {}),
        ("unmounted", without_dev),
        ("devices", |c| {
            without_dev(c);
            c["linux"]["devices"] =
                json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}]);
        }),
    ];
    for (name, change) in changes {
        let bundle = host.bundle(name, "true", change);
        let dev = bundle.join("rootfs/dev");
        fs::remove_dir(&dev).unwrap();
        symlink(&outside.dir, &dev).unwrap();
        host.run(&["run", "-b", bundle.to_str().unwrap(), name]);
        outside.is_as_it_was(name);
    }
}
