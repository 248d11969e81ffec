//! The manifests of `tests/manifests`, natively and as WebAssembly: what each says is so inside of
//! its containers, or in its status.

use magik_pri::RuntimeClass;
use magikrun_tests::{
    isolated,
    manifests::{directories, refuse_each, run_each},
};

/// A test for each directory, run as pods of a class.
macro_rules! directories {
    ($($name:ident: $class:ident),* $(,)?) => {
        const DIRECTORIES: &[&str] = &[$(stringify!($name)),*];
        $(isolated!(fn $name(scene) { run_each(scene, stringify!($name), RuntimeClass::$class); });)*
    };
}

directories! {
    ends: Native,
    env: Native,
    host: Native,
    identity: Native,
    life: Native,
    program: Native,
    resources: Native,
    volumes: Native,
    workloads: Native,
}

#[test]
fn every_directory_has_a_test() {
    assert_eq!(directories(), DIRECTORIES);
}

isolated!(
    fn what_a_kind_of_pod_cannot_do_is_refused_by_name(scene) {
        refuse_each(scene, &directories());
    }
);
