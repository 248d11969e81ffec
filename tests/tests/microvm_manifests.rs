//! The manifests of `tests/manifests` in virtual machines. Pods that say the same but for their
//! containers share one: a machine is emulated here, and its boot takes seconds.

use magikrun_tests::{has_machines, isolated, manifests::run_in_machines};

/// A test for each directory.
macro_rules! directories {
    ($($name:ident),* $(,)?) => {
        $(isolated!(fn $name(scene) {
            if has_machines(scene.dir()) {
                run_in_machines(scene, stringify!($name));
            }
        });)*
    };
}

directories! {
    ends,
    env,
    host,
    identity,
    life,
    program,
    resources,
    volumes,
    workloads,
}
