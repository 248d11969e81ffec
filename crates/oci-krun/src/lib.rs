//! Containers in virtual machines of their own, as an [`OciRuntime`](magik_oci::OciRuntime).
//!
//! On the host such a container is a native one whose program supervises its machine: engines find its pid, cgroup, network
//! namespace, streams and exit code where they look for them. So there are two halves, in two processes:
//!
//! - [`KrunRuntime`], in the process of the command line, makes the native container and knows nothing of machines: whatever
//!   there is to know about them it asks the program [`PROGRAM`].
//! - [`program`] (feature `program`) is that program: it says what the native container is made of, is what runs in it, and
//!   carries signals and further programs to the guest.
//!
//! What they say to each other is in one module, so that they say the same. Machines themselves are `magik-vm`'s.
//!
//! It is for Linux; elsewhere it is empty.
#![cfg(target_os = "linux")]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[cfg(feature = "program")]
pub mod program;
mod runtime;
mod words;

pub use runtime::KrunRuntime;
pub use words::PROGRAM;
