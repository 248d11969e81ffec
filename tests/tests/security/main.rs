//! Attacks, one module for each place an attacker can stand at. Each runs for real and must fail.

mod container;
mod defaults;
mod guest;
mod image;
mod local_user;
mod neighbour;
mod registry;
