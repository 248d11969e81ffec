//! Who `exec --user`, `exec --process` and a configuration make a process, whatever is asked for.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::fs;

use oci_support::Host;
use serde_json::json;

/// User and group of who runs it.
const WHO: &str = "echo $(id -u):$(id -g)";

/// crun took `--user 1` for root. Here each form is who it says, or an error; nothing is nearly somebody.
#[test]
fn each_form_of_a_user_is_that_user_or_an_error_cve_2026_30892() {
    let Some(host) = Host::root("each_form_of_a_user_is_that_user_or_an_error_cve_2026_30892") else {
        return;
    };
    host.sleeper("c", |c| {
        c["process"]["user"] = json!({"uid": 5, "gid": 6});
    });
    // An image that has users whose names are numbers, or nearly.
    let etc = host.path("bundle-c").join("rootfs/etc");
    let hostile = "-1:x:0:0:::\n+1:x:0:0:::\n4294967296:x:0:0:::\n 1:x:0:0:::\n:x:0:0:::\n";
    let plain = fs::read_to_string(etc.join("passwd")).unwrap();
    fs::write(etc.join("passwd"), format!("{hostile}{plain}")).unwrap();
    let groups = fs::read_to_string(etc.join("group")).unwrap();
    fs::write(etc.join("group"), format!("{hostile}{groups}")).unwrap();

    let exec = |user: &str| host.run(&["exec", &format!("--user={user}"), "c", "sh", "-c", WHO]);
    for (user, who) in [
        ("0", "0:6"),
        ("1", "1:6"),
        ("1:2", "1:2"),
        ("0:0", "0:0"),
        ("007:010", "7:10"),
        ("web", "33:34"),
        ("web:extra", "33:44"),
        ("web:7", "33:7"),
        ("7:www", "7:34"),
        ("2147483647:2147483648", "2147483647:2147483648"),
        ("4294967294:4294967294", "4294967294:4294967294"),
    ] {
        assert_eq!(exec(user).ok().trim(), who, "--user {user}");
    }
    for user in [
        "",
        ":",
        "1:",
        ":1",
        "-1",
        "+1",
        " 1",
        "1 ",
        "-0",
        "1:-1",
        "1:+1",
        "1:2:3",
        "4294967295",
        "1:4294967295",
        "4294967296",
        "1:4294967296",
        "99999999999999999999",
        "nosuch",
        "web:nosuch",
        "0x1",
        "1.0",
        "1e0",
    ] {
        let line = exec(user).fails(255);
        assert!(line.contains("user"), "--user {user:?}: {line}");
    }
}

/// The kernel takes it for "as it is", and it is root.
#[test]
fn an_id_that_means_none_is_refused() {
    let Some(host) = Host::root("an_id_that_means_none_is_refused") else {
        return;
    };
    const NONE: u32 = u32::MAX;
    let users = [
        json!({"uid": NONE, "gid": 1}),
        json!({"uid": 1, "gid": NONE}),
        json!({"uid": 1, "gid": 1, "additionalGids": [2, NONE]}),
    ];
    host.sleeper("c", |_| {});
    for (index, user) in users.into_iter().enumerate() {
        let name = format!("n{index}");
        let bundle = host.bundle(&name, WHO, |c| c["process"]["user"] = user.clone());
        for command in ["run", "create"] {
            let line = host
                .run(&[command, "-b", bundle.to_str().unwrap(), &name])
                .fails(1);
            assert!(line.contains("process.user"), "{line}");
        }
        let process = host.path("process.json");
        let json = json!({"user": user, "args": ["sh", "-c", WHO], "env": ["PATH=/bin"], "cwd": "/"});
        fs::write(&process, json.to_string()).unwrap();
        let line = host
            .run(&["exec", "--process", process.to_str().unwrap(), "c"])
            .fails(255);
        assert!(line.contains("process.user"), "{line}");
    }
    let line = host.run(&["exec", "-g", "4294967295", "c", "id"]).fails(255);
    assert!(line.contains("process.user"), "{line}");
    assert_eq!(host.run(&["list", "-q"]).ok(), "c\n");
}
