//! Linux containers as an [`OciRuntime`](magik_oci::OciRuntime).
//!
//! [`NativeRuntime`] is for a pod's init (one thread, PID 1), for an OCI command line (one
//! operation per process) and for programs with many threads:
//!
//! - A short-lived **worker** (`worker`) makes a container. It is a fork of a process with one
//!   thread, else a re-exec of a helper binary, whose `main` begins with [`run_worker_if_asked`].
//!   The worker prepares and clones the container's process, whose parent is the caller
//!   (`container` states the invariants). `exec` takes the same last steps (`process`).
//! - Operations without a fork (start, kill, delete, pause, stats, …) use `/proc` and cgroups
//!   (`cgroup`).
//! - A container's **state** lies under `<root>/<id>/` (`store`): one lock per container, written
//!   atomically. A process is identified by pid *and* start time.
//!
//! The kernel's calls are in `magik-sys`. youki's libcontainer and libcgroups provide capabilities,
//! hooks, network devices, memory policies, the spec's validator and cgroup v2's limits.
//!
//! A pod's init, or a command line, calls [`seal_self_exe`] first, so that no container can write to the binary that
//! started it (CVE-2019-5736).
//!
//! It pulls no images and writes no bundles (`magik-image` does), makes no networks, and does not
//! work without root. It is for Linux, with cgroup v1 or v2, and links libseccomp; elsewhere it is
//! empty.
#![cfg(target_os = "linux")]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cgroup;
mod children;
mod container;
mod create;
mod exec;
mod failure;
mod fork;
mod job;
mod lifecycle;
mod masks;
mod proc_mounts;
mod process;
mod runner;
mod runtime;
mod seccomp;
mod spec;
mod store;
mod worker;

pub use cgroup::restrict_devices;
pub use magik_oci;
pub use magik_sys::seal::{SealError, seal_self_exe, sealed_binary};
pub use runner::{ENVIRONMENT_MARK, Runner, RunnerFiles};
pub use runtime::{DEFAULT_CGROUP_ROOT, NativeRuntime, NativeRuntimeBuilder};
pub use store::write_pid_file;
pub use worker::run_worker_if_asked;
