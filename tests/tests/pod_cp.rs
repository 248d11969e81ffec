//! `pod cp`: files from and to containers, honest ones and others. `pod top` beside it.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    process::{Output, Stdio},
};

use magikrun_test_corpus::tarball::{Entry, Tar};
use magikrun_tests::{BUSYBOX, Census, Magikrun, Scene, busybox_layout, isolated, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// A pod `web`, and a directory `out` in the scene to copy to.
fn with_pod(scene: &Scene) -> Magikrun {
    let magikrun = Magikrun::new(scene);
    let layout = busybox_layout(&scene.dir().join("layout"));
    magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
    magikrun.ok(&["pod", "run", "--name", "web", BUSYBOX, "busybox", "sleep", "1000"]);
    fs::create_dir(scene.dir().join("out")).unwrap();
    magikrun
}

fn sh(magikrun: &Magikrun, script: &str) -> String {
    magikrun.ok(&["pod", "exec", "web", "--", "busybox", "sh", "-c", script])
}

fn listed(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs a command with this standard input.
fn fed(magikrun: &Magikrun, args: &[&str], input: &[u8]) -> Output {
    let mut command = magikrun.command(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

isolated!(
    fn files_and_directories_are_copied_by_dockers_rules(scene) {
        let magikrun = with_pod(scene);
        let (tree, out) = (scene.dir().join("tree"), scene.dir().join("out"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(tree.join("sub/run"), fs::Permissions::from_mode(0o4755)).unwrap();
        // More than a window of the control service.
        fs::write(tree.join("large"), vec![7; 3 << 20]).unwrap();
        symlink("large", tree.join("link")).unwrap();
        let _socket = UnixListener::bind(tree.join("socket")).unwrap();
        let path = |dir: &Path, name: &str| dir.join(name).display().to_string();
        let (tree_path, out_path) = (tree.display().to_string(), out.display().to_string());

        // In: into a directory, as a new name, what is in it.
        let sent = magikrun.run(&["pod", "cp", &tree_path, "web:/tmp"]);
        assert_eq!(sent.code, 0, "{}", sent.stderr);
        assert!(sent.stderr.contains("1 left out"), "{}", sent.stderr);
        let modes = "busybox stat -c '%a %u %n' /tmp/tree/sub/run; busybox readlink /tmp/tree/link";
        assert_eq!(sh(&magikrun, modes), "755 0 /tmp/tree/sub/run\nlarge\n");
        magikrun.ok(&["pod", "cp", &tree_path, "web:/tmp/new"]);
        magikrun.ok(&["pod", "cp", &format!("{tree_path}/sub/."), "default/web:/tmp"]);
        magikrun.ok(&["pod", "cp", &path(&tree, "sub/run"), "web:tmp/renamed"]);
        assert_eq!(sh(&magikrun, "cd /tmp; ls; ls new"), "new\nrenamed\nrun\ntree\nlarge\nlink\nsub\n");

        // Out: the same.
        magikrun.ok(&["pod", "cp", "web:/tmp/tree", &out_path]);
        assert_eq!(listed(&out.join("tree")), ["large", "link", "sub"]);
        assert_eq!(fs::read(out.join("tree/large")).unwrap(), vec![7; 3 << 20]);
        assert_eq!(fs::read_link(out.join("tree/link")).unwrap(), Path::new("large"));
        assert_eq!(fs::metadata(out.join("tree/sub/run")).unwrap().mode() & 0o7777, 0o755);
        magikrun.ok(&["pod", "cp", "-c", "web", "web:/tmp/tree/.", &path(&out, "contents")]);
        assert_eq!(listed(&out.join("contents")), ["large", "link", "sub"]);
        magikrun.ok(&["pod", "cp", "web:/tmp/run", &path(&out, "file")]);
        magikrun.ok(&["pod", "cp", "web:/etc/passwd", &path(&out, "file")]);
        assert!(fs::read_to_string(out.join("file")).unwrap().starts_with("root:"), "replaced");

        // As an archive.
        let archive = fed(&magikrun, &["pod", "cp", "web:/tmp/tree/sub", "-"], b"").stdout;
        sh(&magikrun, "mkdir /tmp/again");
        let fed = fed(&magikrun, &["pod", "cp", "-", "web:/tmp/again"], &archive);
        assert!(fed.status.success(), "{fed:?}");
        assert_eq!(sh(&magikrun, "ls /tmp/again/sub"), "run\n");
        assert_eq!(listed(&out), ["contents", "file", "tree"], "nothing that was on its way");
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn a_copy_that_cannot_be_made_says_why_in_one_line(scene) {
        let magikrun = with_pod(scene);
        let before = Census::take(&magikrun.roots());
        let out = scene.dir().join("out");
        let at = |name: &str| out.join(name).display().to_string();
        fs::write(out.join("file"), "kept").unwrap();
        for (from, to, code, says) in [
            ("web:/none", at("x"), 1, "tar failed"),
            ("web:/etc", at("file"), 1, "is no directory, and what is copied is one"),
            ("web:/etc/passwd", at("no/such"), 1, "make it first"),
            ("web:/etc/passwd", at("new/"), 1, "make it first"),
            ("web:/etc/passwd", "/dev/null".to_owned(), 1, "neither a file nor a directory"),
            ("nobody:/x", at("x"), 1, "see 'magikrun pod ls'"),
            ("web:/x", "web:/y".to_owned(), 2, "pod cp - web:/y"),
            ("./x", at("x"), 2, "name the pod"),
            ("web:", at("x"), 2, "web:PATH"),
            (&at("none"), "web:/tmp".to_owned(), 1, "No such file"),
            (&at("file"), "web:/no/such".to_owned(), 1, "tar failed"),
            (&at("file"), "web:/new/".to_owned(), 1, "make it first"),
            ("-", "web:/etc/passwd".to_owned(), 1, "is no directory"),
        ] {
            let ran = magikrun.run(&["pod", "cp", from, &to]);
            assert_eq!(ran.code, code, "{from} {to}: {}", ran.stderr);
            assert!(ran.stderr.contains(says), "{from} {to}: {}", ran.stderr);
            assert_eq!(ran.stderr.lines().count(), 1, "{from} {to}: {}", ran.stderr);
        }
        let wrong = magikrun.error(&["pod", "cp", "-c", "none", "web:/x", &at("x")]);
        assert!(wrong.contains("there is no container \"none\""), "{wrong}");
        let cut = fed(&magikrun, &["pod", "cp", "-", "web:/tmp"], &[b'x'; 700]);
        assert_eq!(cut.status.code(), Some(1), "{cut:?}");
        before.assert_same("after the mistakes");
        sh(&magikrun, "rm /bin/tar");
        let without = magikrun.error(&["pod", "cp", "web:/etc", &at("x")]);
        assert!(without.contains("there is no program \"tar\""), "{without}");
        assert_eq!(listed(&out), ["file"]);
        assert_eq!(fs::read(out.join("file")).unwrap(), b"kept");
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn a_container_whose_tar_lies_writes_nothing_outside(scene) {
        let magikrun = with_pod(scene);
        let out = scene.dir().join("out");
        fs::write(scene.dir().join("precious"), "precious").unwrap();
        let precious = scene.dir().join("precious").display().to_string();
        sh(
            &magikrun,
            "rm /bin/tar; printf '#!/bin/sh\\ncat /tmp/evil' > /bin/tar; chmod 755 /bin/tar",
        );
        let directory = || Tar::new().add(&Entry::dir("data"));
        let file = |path: &str| Entry::file(path, "evil");
        let link = |path: &str, to: &str| Entry::new(b'2', path).to(to);
        for (what, archive, says) in [
            ("CVE-2018-1002100", directory().add(&file("data/../../precious")), ".."),
            ("CVE-2018-1002100, absolute", directory().add(&file(&precious)), "nobody asked"),
            (
                "CVE-2019-1002101",
                directory().add(&link("data/l", "../..")).add(&file("data/l/precious")),
                "symbolic link",
            ),
            (
                "CVE-2019-11246",
                directory().add(&link("data/l", "/")).add(&file("data/l/tmp/evil")),
                "symbolic link",
            ),
            ("CVE-2019-11249", directory().add(&file("other")), "nobody asked"),
            (
                "CVE-2019-11251",
                directory()
                    .add(&link("data/a", "/"))
                    .add(&link("data/b", "a/.."))
                    .add(&file("data/b/precious")),
                "symbolic link",
            ),
            (
                "a hard link",
                directory().add(&Entry::new(b'1', "data/l").to(&precious)).add(&file("data/l")),
                "hard link",
            ),
            ("a device", directory().add(&Entry::new(b'4', "data/sda").device(8, 0)), "devices"),
            ("its own place", Tar::new().add(&link("data", &precious)).add(&file("data/x")), "symbolic link"),
            ("no archive", Tar::new().bytes(&[b'\x1b'; 2048]), "archive"),
        ] {
            let evil = ["pod", "exec", "-i", "web", "--", "busybox", "sh", "-c", "cat > /tmp/evil"];
            assert!(fed(&magikrun, &evil, &archive.done()).status.success());
            for to in [out.clone(), out.join("new")] {
                let error = magikrun.error(&["pod", "cp", "web:/data", to.to_str().unwrap()]);
                assert!(error.contains(says), "{what}: {error}");
                assert!(!error.contains('\x1b'), "{what}: {error:?}");
                assert_eq!(listed(&out), Vec::<String>::new(), "{what}");
            }
            assert_eq!(fs::read(&precious).unwrap(), b"precious", "{what}");
        }
        // One that never ends has a limit, and one that says escapes does not drive the terminal.
        sh(&magikrun, "printf '#!/bin/sh\\ncat /tmp/head /dev/zero' > /bin/tar");
        let head = Tar::new().add(&Entry::new(b'0', "data").size(1 << 40));
        let cat = ["pod", "exec", "-i", "web", "--", "busybox", "sh", "-c", "cat > /tmp/head"];
        assert!(fed(&magikrun, &cat, &head.open()).status.success());
        let to = out.to_str().unwrap();
        let endless = magikrun.error(&["--max-image-size", "1Mi", "pod", "cp", "web:/data", to]);
        assert!(endless.contains("larger than 1048576 bytes"), "{endless}");
        sh(&magikrun, "printf '#!/bin/sh\\nprintf \"\\\\033[31mred\" >&2; exit 3' > /bin/tar");
        let escapes = magikrun.error(&["pod", "cp", "web:/data", to]);
        assert!(escapes.contains("exit code 3") && !escapes.contains('\x1b'), "{escapes:?}");
        assert_eq!(listed(&out), Vec::<String>::new());
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn no_copy_leaves_a_link_by_which_the_next_one_writes_elsewhere(scene) {
        let magikrun = with_pod(scene);
        let (out, victim) = (scene.dir().join("out"), scene.dir().join("victim"));
        fs::create_dir(&victim).unwrap();
        let to = out.join("data").display().to_string();
        let plant = format!("mkdir /d; ln -s {0} /d/data; ln -s {0} /data", victim.display());
        sh(&magikrun, &plant);
        // The link itself, and one in a directory.
        let alone = magikrun.error(&["pod", "cp", "web:/data", &to]);
        assert!(alone.contains("a link that leads out"), "{alone}");
        let within = magikrun.run(&["pod", "cp", "web:/d", out.to_str().unwrap()]);
        assert_eq!(within.code, 0, "{}", within.stderr);
        assert!(within.stderr.contains("1 left out"), "{}", within.stderr);
        assert_eq!(listed(&out.join("d")), Vec::<String>::new());
        // One that is there already, whoever made it.
        symlink(&victim, out.join("data")).unwrap();
        for to in [to.clone(), format!("{to}/")] {
            for from in ["web:/etc/passwd", "web:/etc/."] {
                let refused = magikrun.error(&["pod", "cp", from, &to]);
                assert!(refused.contains("is a link: name what it leads to"), "{refused}");
            }
        }
        assert_eq!(listed(&victim), Vec::<String>::new());
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn a_copy_that_is_interrupted_leaves_nothing_here(scene) {
        let magikrun = with_pod(scene);
        let out = scene.dir().join("out");
        let script = "rm /bin/tar; printf '#!/bin/sh\\nbusybox sleep 2222' > /bin/tar; chmod 755 /bin/tar";
        sh(&magikrun, script);
        let mut copy = magikrun.command(&["pod", "cp", "web:/data", out.to_str().unwrap()]);
        let copy = copy.stderr(Stdio::piped()).spawn().unwrap();
        let under_way = || listed(&out).iter().any(|name| name.starts_with(".magikrun-cp-"));
        wait_for("the copy", || under_way() && sh(&magikrun, "ps").contains("sleep 2222"));
        let pid = Pid::from_child(&copy);
        kill_process(pid, Signal::INT).unwrap();
        let ended = copy.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(130), "{ended:?}");
        assert_eq!(listed(&out), Vec::<String>::new());
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn the_processes_of_containers_are_shown_without_ps(scene) {
        let magikrun = with_pod(scene);
        sh(&magikrun, "rm /bin/ps /bin/top");
        // A command line is the container's choice.
        let script = ["busybox", "sh", "-c", "busybox sleep 900; :", "a\x1b[2J\nb"];
        magikrun.ok(&[&["pod", "run", "--name", "evil", BUSYBOX], &script[..]].concat());
        let processes = magikrun.json(&["pod", "top", "web"]);
        assert_eq!(processes.as_array().map(Vec::len), Some(1), "{processes}");
        let first = &processes[0];
        assert_eq!((&first["container"], &first["pid"]), (&"web".into(), &1.into()), "{first}");
        assert_eq!(first["uid"], 0, "the container's root: {first}");
        assert!(first["rss"].as_u64().unwrap() > 0, "{first}");
        assert_eq!(first["command"], "busybox sleep 1000");
        let table = magikrun.ok(&["pod", "top", "-c", "web", "web"]);
        assert!(table.starts_with("CONTAINER") && table.contains("busybox sleep 1000"), "{table}");
        let table = magikrun.ok(&["pod", "top", "evil"]);
        assert!(table.contains("a [2J b") && !table.contains('\x1b'), "{table:?}");
        let wrong = magikrun.error(&["pod", "top", "-c", "none", "web"]);
        assert!(wrong.contains("there is no container \"none\": it has web"), "{wrong}");
        magikrun.ok(&["pod", "stop", "-t", "0", "web"]);
        assert!(magikrun.error(&["pod", "top", "web"]).contains("cannot top pod"));
        magikrun.ok(&["pod", "delete", "--force", "--all"]);
    }
);
