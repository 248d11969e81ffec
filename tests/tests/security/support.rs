//! What the attacks have in common.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use magikrun_tests::{BUSYBOX, Magikrun, Scene, busybox_layout, container, pod};

/// Long enough for a loaded machine; nothing is asserted about how long anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// magikrun with a busybox image, one pod run and deleted, so that whatever is made once is there.
pub(crate) fn prepared(scene: &Scene) -> Magikrun {
    let magikrun = Magikrun::new(scene);
    let layout = busybox_layout(&scene.dir().join("layout"));
    magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
    let warm_up = magikrun.pod_run(&pod("warm-up", &[container("c", BUSYBOX, "sleep 100")]));
    assert_eq!(warm_up.code, 0, "{}", warm_up.stderr);
    magikrun.ok(&["pod", "delete", "--force", "warm-up"]);
    magikrun
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        sleep(Duration::from_millis(20));
    }
}

/// A container's log, once it has come to some text.
#[track_caller]
pub(crate) fn log_until(magikrun: &Magikrun, pod: &str, container: &str, text: &str) -> String {
    let begun = Instant::now();
    loop {
        let log = magikrun.ok(&["pod", "logs", "-c", container, pod]);
        if log.contains(text) {
            return log;
        }
        assert!(begun.elapsed() < PATIENCE, "no {text:?}: {log}");
        sleep(Duration::from_millis(20));
    }
}
