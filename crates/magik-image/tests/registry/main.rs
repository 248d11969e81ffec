//! Pulling and pushing: from and to a real registry, and from registries that mean harm.

mod debian;
mod fixture;
mod hostile;
mod server;
