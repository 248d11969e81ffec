//! Attacks, one module for each place an attacker can stand at. Each runs for real and must fail.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "the harness is the conformance suite's")]
#[path = "../conformance/harness.rs"]
mod harness;

mod container;
mod defaults;
mod guest;
mod image;
mod image_devices;
mod local_user;
mod neighbour;
mod peeking;
mod registry;
mod support;
