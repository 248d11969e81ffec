//! Native pods for real: from an image made of busybox to the last file removed. Needs root.
//!
//! This program is also the init's: `main` looks for that first.
#![allow(clippy::print_stderr)]

mod faults;
mod lifecycle;
mod rootfs;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if let Some(ended) = magik_pri::run_role_if_asked(&[magik_pri::native::ROLE]) {
        return ended;
    }
    let tests = lifecycle::TESTS.iter().chain(faults::TESTS).chain(rootfs::TESTS);
    let trials = tests.map(|(name, test)| {
        Trial::test(*name, move || {
            support::run(name, *test);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
