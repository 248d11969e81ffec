//! The kubelet's side of the container runtime interface, without a kubelet: its messages ([`api`]) and a [`Client`].

pub mod api;
mod client;

pub use client::Client;
