//! Attacks, one module for each place an attacker can stand at. Each runs for real and must fail.

mod container;
mod guest;
mod image;
mod image_devices;
mod local_user;
mod neighbour;
mod registry;
