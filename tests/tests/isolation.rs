//! The tests' own world: does the census see what a runtime could leave behind?

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use magikrun_tests::{Census, isolated};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Whether the census, taken now, differs from `before`.
fn differs(before: &Census, scene: &magikrun_tests::Scene) -> bool {
    Census::now(&[scene.dir()]) != *before
}

isolated!(
    fn census_sees_processes_namespaces_mounts_cgroups_files_and_descriptors(scene) {
        fs::create_dir_all(scene.dir().join("pods")).unwrap();
        let before = Census::take(&[scene.dir()]);
        assert!(!differs(&before, scene), "nothing happened");

        let mut child = Command::new("unshare").args(["--net", "sleep", "100"]).stdin(Stdio::null()).spawn().unwrap();
        assert!(differs(&before, scene), "a process");
        child.kill().unwrap();
        assert!(differs(&before, scene), "a zombie");
        child.wait().unwrap();
        before.assert_same("after the process was reaped");

        let mount = scene.tmpfs("mounted", 4096);
        assert!(differs(&before, scene), "a mount");
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).unwrap();
        fs::remove_dir(mount).unwrap();
        before.assert_same("after the mount is gone");

        let cgroup = ["/sys/fs/cgroup/pids/x", "/sys/fs/cgroup/x"].into_iter().find(|d| fs::create_dir(d).is_ok()).unwrap();
        assert!(differs(&before, scene), "a cgroup");
        fs::remove_dir(cgroup).unwrap();

        fs::write(scene.dir().join("pods/x"), "").unwrap();
        assert!(differs(&before, scene), "a file");
        fs::remove_file(scene.dir().join("pods/x")).unwrap();

        let open = fs::File::open("/dev/null").unwrap();
        assert!(differs(&before, scene), "a descriptor");
        drop(open);
        before.assert_same("at the end");
    }
);

isolated!(
    fn what_the_world_is_compared_with_has_no_process_that_is_ending(scene) {
        let empty = Census::take(&[scene.dir()]);
        let mut child = Command::new("true").spawn().unwrap();
        let pid = WaitId::Pid(Pid::from_child(&child));
        waitid(pid, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            child.wait().unwrap()
        });
        let before = Census::take(&[scene.dir()]);
        assert!(late.join().unwrap().success());
        assert_eq!(before, empty, "the child is gone");
    }
);

isolated!(
    fn a_test_sees_only_its_own_processes_and_cgroups(scene) {
        let pids = fs::read_dir("/proc").unwrap().flatten().filter(|e| e.file_name().to_str().unwrap().parse::<u32>().is_ok());
        assert_eq!(pids.count(), 2, "the reaper and this test");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(own.lines().all(|l| l.ends_with(":/") || l.ends_with(":/runner")), "{own}");
        assert_eq!(fs::read_dir(scene.dir()).unwrap().count(), 0);
    }
);
