//! The pod contract, kept by pods in virtual machines: emulated, with the real kernel. `cargo xtask vm` makes what they need.

use std::sync::Arc;

use magik_pri::{
    PodRuntime, Pods, Roots,
    microvm::{DriverKind, MicroVm, SUPERVISOR_BINARY, VmFiles},
};
use magikrun_tests::{Magikrun, binary, contract, isolated, pod_contract};

fn open(magikrun: &Magikrun) -> Arc<dyn PodRuntime> {
    let roots = Roots {
        data: magikrun.root.clone(),
        state: magikrun.state.clone(),
    };
    let supervisor = binary().with_file_name(SUPERVISOR_BINARY);
    // target/debug/magikrun: target/vm.
    let files = binary().ancestors().nth(2).expect("target").join("vm");
    let backend = MicroVm::new(&roots)
        .supervisor(supervisor)
        .files(VmFiles::new(files))
        .driver(DriverKind::QemuTcg);
    Arc::new(Pods::new(roots).with(backend))
}

pod_contract!(open, contract::PROCESSES);

isolated!(fn what_is_added_has_its_own_image(scene) {
    contract::check_that_pulls(scene, open, contract::PROCESSES, contract::what_is_added_has_its_own_image);
});
