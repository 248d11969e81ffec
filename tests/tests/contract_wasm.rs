//! The pod contract, kept by pods of WebAssembly.

use std::sync::Arc;

use magik_pri::{PodRuntime, Pods, Roots, wasm::Wasm};
use magikrun_tests::{Magikrun, binary, pod_contract};

/// In this process, which has several threads; the pods are the real binary's.
fn open(magikrun: &Magikrun) -> Arc<dyn PodRuntime> {
    let roots = Roots {
        data: magikrun.root.clone(),
        state: magikrun.state.clone(),
    };
    let beside = binary().with_file_name(magik_pri::wasm::BINARY);
    Arc::new(Pods::new(roots).with(Wasm::new().binary(beside)))
}

pod_contract!(open, magikrun_tests::contract::WEBASSEMBLY);

mod without_root {
    magikrun_tests::pod_contract!(super::open, magikrun_tests::contract::WEBASSEMBLY_BY_ANYBODY);
}
