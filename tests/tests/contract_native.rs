//! The pod contract, kept by native pods.

use std::sync::Arc;

use magik_pri::{
    PodRuntime, Pods, Roots,
    native::{INIT_BINARY, Native},
};
use magikrun_tests::{Magikrun, binary, contract, isolated, pod_contract};

/// In this process, which has several threads; the pod init is the real binary's.
fn open(magikrun: &Magikrun) -> Arc<dyn PodRuntime> {
    let roots = Roots {
        data: magikrun.root.clone(),
        state: magikrun.state.clone(),
    };
    let init = binary().with_file_name(INIT_BINARY);
    Arc::new(Pods::new(roots).with(Native::new().init_binary(init)))
}

pod_contract!(open, contract::PROCESSES);

isolated!(fn what_is_added_has_its_own_image(scene) {
    contract::check_that_pulls(scene, open, contract::PROCESSES, contract::what_is_added_has_its_own_image);
});
