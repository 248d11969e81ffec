//! The generated code of `proto/control.proto`, private to this crate.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused,
    clippy::all,
    clippy::pedantic
)]

include!(concat!(env!("OUT_DIR"), "/rpc.rs"));
