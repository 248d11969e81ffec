//! What every pod runtime promises, written once; [`pod_contract`](crate::pod_contract) makes a test of each promise.
//!
//! Every check runs in a world of its own ([`isolated`](crate::isolated)) and ends with a [`Census`]: whatever a check
//! does, once its pods are deleted everything is as it was before.

mod changes;
mod faults;
mod kit;
mod lifecycle;
mod streams;
mod watch;

pub use changes::*;
pub use faults::*;
pub use kit::{Kit, PROCESSES, WEBASSEMBLY, WEBASSEMBLY_BY_ANYBODY};
pub use lifecycle::*;
pub use streams::*;
pub use watch::*;

use std::{sync::Arc, time::Duration};

use magik_infra::status::{ContainerPhase, PodStatus};
use magik_oci::Exit;
use magik_pri::{
    Error, ExecEvent, ExecRequest, LogOptions, PodRuntime, PodSpec, Result, RunOptions, RuntimeClass,
    StdStream,
};
use serde_json::{Value, json};

use crate::{BUSYBOX, Census, Magikrun, Scene, as_root, pod};

/// Opens the runtime under test on these roots.
pub type Open = fn(&Magikrun) -> Arc<dyn PodRuntime>;

/// A check that takes this long hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A runtime under test and what it runs.
#[derive(Debug)]
pub struct Contract<'a> {
    /// The test's world.
    pub scene: &'a Scene,
    /// The runtime.
    pub runtime: Arc<dyn PodRuntime>,
    /// Its roots, and its command line on them.
    pub magikrun: Magikrun,
    /// Where the image [`BUSYBOX`], which is in the store already, came from: `oci:DIR:TAG`.
    pub source: String,
    /// How to open the runtime again, on other roots.
    pub open: Open,
    /// What its containers run.
    pub kit: Kit,
}

/// What is sent to a program; its input ends with the last.
#[derive(Debug)]
pub enum Input {
    /// Bytes for its standard input.
    Stdin(Vec<u8>),
    /// Its terminal has so many rows and columns now.
    Resize(u16, u16),
}

/// What a program wrote and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl<'a> Contract<'a> {
    /// The runtime on roots of its own, its image imported; one pod has been run and deleted, so that what is opened
    /// once and kept (the directories of the store, this process's event loop) is there.
    async fn new(scene: &'a Scene, open: Open, kit: Kit) -> Self {
        let magikrun = Magikrun::new(scene);
        // What is compiled for it is kept where only root writes.
        let source = as_root(|| (kit.layout)(&scene.dir().join("layout"))).reference(BUSYBOX);
        magikrun.ok(&["image", "pull", &source]);
        let t = Self {
            scene,
            runtime: open(&magikrun),
            magikrun,
            source,
            open,
            kit,
        };
        let warm_up = t
            .run("warm-up", &[("c", "sleep 100")])
            .await
            .expect("the first pod");
        if kit.processes {
            t.exec(&warm_up.id, "c", &["true"]).await;
        }
        t.delete(&warm_up.id).await;
        t
    }

    /// How often something is done that `times` show more surely than one: where each takes a machine, less often.
    #[must_use]
    pub fn times(&self, times: usize) -> usize {
        if is_slow(&*self.runtime) {
            times.min(2)
        } else {
            times
        }
    }

    /// A time that is long enough for containers to be started: an emulated machine takes seconds.
    #[must_use]
    pub fn seconds(&self, seconds: u32) -> u32 {
        if is_slow(&*self.runtime) {
            seconds * 20
        } else {
            seconds
        }
    }

    /// A container that runs a shell script.
    #[must_use]
    pub fn container(&self, name: &str, script: &str) -> Value {
        (self.kit.container)(name, script)
    }

    /// A pod of such containers.
    #[must_use]
    pub fn pod(&self, name: &str, scripts: &[(&str, &str)]) -> Value {
        let containers: Vec<Value> = scripts
            .iter()
            .map(|(name, script)| self.container(name, script))
            .collect();
        pod(name, &containers)
    }

    /// Runs a pod of such containers.
    ///
    /// # Errors
    /// What `run_pod` says.
    pub async fn run(&self, name: &str, scripts: &[(&str, &str)]) -> Result<PodStatus> {
        self.run_manifest(&self.pod(name, scripts)).await
    }

    /// Parses a manifest and runs it.
    ///
    /// # Errors
    /// What parsing or `run_pod` says.
    pub async fn run_manifest(&self, manifest: &Value) -> Result<PodStatus> {
        let spec = PodSpec::from_yaml(&manifest.to_string())?;
        self.runtime.run_pod(&spec, RunOptions::default()).await
    }

    /// Kills and removes a pod.
    ///
    /// # Panics
    /// If that fails.
    pub async fn delete(&self, pod: &str) {
        self.runtime
            .delete_pod(pod, true)
            .await
            .expect("delete_pod with force");
    }

    /// Runs a program in a container to its end.
    ///
    /// # Panics
    /// If it cannot be started or its output is not in order.
    pub async fn exec(&self, pod: &str, container: &str, args: &[&str]) -> Ran {
        self.exec_with(pod, ExecRequest::new(container, args.iter().copied()), vec![])
            .await
    }

    /// Runs a program with input.
    ///
    /// # Panics
    /// As [`exec`](Self::exec).
    pub async fn exec_with(&self, pod: &str, request: ExecRequest, input: Vec<Input>) -> Ran {
        let mut session = self.runtime.exec(pod, request).await.expect("exec");
        assert!(session.pid > 0, "started, with a pid");
        let program = session.input;
        // What is sent is taken while the output is read.
        tokio::spawn(async move {
            for piece in input {
                match piece {
                    Input::Stdin(bytes) => program.write(&bytes).await.expect("exec takes input"),
                    Input::Resize(rows, columns) => {
                        program.resize(rows, columns).await.expect("exec takes a size");
                    }
                }
            }
            // It may have ended by now.
            let _ = program.close().await;
        });
        let (mut ran, mut stdout, mut stderr, mut ended) = (Ran::default(), vec![], vec![], false);
        while let Some(output) = session.output.next().await.expect("exec") {
            assert!(!ended, "output after the exit code: {output:?}");
            match output {
                ExecEvent::Stdout(data) => stdout.extend(data),
                ExecEvent::Stderr(data) => stderr.extend(data),
                ExecEvent::Exited(code) => (ran.code, ended) = (code, true),
            }
        }
        assert!(ended, "exec ended without exit code: {ran:?}");
        ran.stdout = String::from_utf8(stdout).expect("UTF-8");
        ran.stderr = String::from_utf8(stderr).expect("UTF-8");
        ran
    }

    /// Waits until a container has written `text`, and returns all it has written to its standard output.
    ///
    /// # Panics
    /// If its log cannot be read.
    pub async fn until_logged(&self, pod: &str, container: &str, text: &str) -> String {
        loop {
            let log = self.logs(pod, log_of(container)).await.0;
            if log.contains(text) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the pod answers to a request for `path` on a port, once something listens there.
    ///
    /// # Panics
    /// If forwarding fails otherwise than because nothing listens.
    pub async fn fetch(&self, pod: &str, port: u16, path: &str) -> String {
        loop {
            if let Ok(mut forward) = self.runtime.port_forward(pod, port).await {
                let request = format!("GET {path} HTTP/1.0\r\n\r\n").into_bytes();
                // What is refused is said by the output.
                let _ = forward.writer.write(&request).await;
                let mut answer = vec![];
                while let Ok(Some(piece)) = forward.reader.next().await {
                    answer.extend(piece);
                }
                if !answer.is_empty() {
                    return String::from_utf8(answer).expect("UTF-8");
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A container's whole log: standard output, standard error.
    ///
    /// # Panics
    /// If it cannot be read.
    pub async fn logs(&self, pod: &str, options: LogOptions) -> (String, String) {
        let mut log = self.runtime.logs(pod, options).await.expect("logs");
        let (mut out, mut err) = (vec![], vec![]);
        while let Some(chunk) = log.next().await.expect("log chunk") {
            match chunk.stream {
                StdStream::Stdout => out.extend(chunk.data),
                StdStream::Stderr => err.extend(chunk.data),
            }
        }
        (
            String::from_utf8(out).expect("UTF-8"),
            String::from_utf8(err).expect("UTF-8"),
        )
    }

    /// The whole world, as it is once what runs in the background (connections being closed) has come to rest.
    pub async fn census(&self) -> Census {
        let mut last = Census::take(&self.magikrun.roots());
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = Census::take(&self.magikrun.roots());
            if now == last {
                return now;
            }
            last = now;
        }
    }
}

/// Whether every pod boots a machine, which here is emulated.
fn is_slow(runtime: &dyn PodRuntime) -> bool {
    class(runtime) == RuntimeClass::MicroVm
}

/// The class of the pods that a runtime with one backend runs.
fn class(runtime: &dyn PodRuntime) -> RuntimeClass {
    runtime.runtime_classes()[0]
}

/// The log options for one container.
#[must_use]
pub fn log_of(container: &str) -> LogOptions {
    LogOptions {
        container: Some(container.into()),
        ..Default::default()
    }
}

/// How a container ended.
///
/// # Panics
/// If it has not.
#[track_caller]
#[must_use]
pub fn exit_of(status: &PodStatus, container: &str) -> Exit {
    let all = status.init_containers.iter().chain(&status.containers);
    let found = all
        .clone()
        .find(|c| c.name == container)
        .unwrap_or_else(|| panic!("no {container} in {status:?}"));
    match &found.state {
        ContainerPhase::Exited { exit, .. } => *exit,
        other => panic!("{container} has not ended: {other:?}"),
    }
}

/// An `emptyDir` volume `shared`, mounted at `/shared` in every container of the manifest.
fn share_directory(manifest: &mut Value) {
    manifest["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    for kind in ["initContainers", "containers"] {
        for container in manifest["spec"][kind].as_array_mut().into_iter().flatten() {
            container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
        }
    }
}

/// The pid of a pod's init.
fn init_of(t: &Contract<'_>, pod: &str) -> i32 {
    let record = t.magikrun.state.join("pods").join(pod).join("init");
    let record = std::fs::read_to_string(record).expect("the init's record");
    let pid = record.split(' ').next().and_then(|pid| pid.parse().ok());
    pid.expect("a pid")
}

/// Whether the error is that no such pod exists.
fn not_found<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::NotFound(_)))
}

/// Runs one check of the contract in its own world; called by [`pod_contract`](crate::pod_contract).
///
/// # Panics
/// If the check fails, hangs or leaves anything behind.
pub fn check(scene: &Scene, open: Open, kit: Kit, check: impl AsyncFnOnce(&Contract<'_>)) {
    check_that_pulls(scene, open, kit, async |t: &Contract<'_>| {
        let before = t.census().await;
        check(t).await;
        before.assert_same("after the check");
    });
}

/// The same for a check that leaves traces of further images in the store, as images do.
///
/// # Panics
/// If the check fails or hangs.
pub fn check_that_pulls(scene: &Scene, open: Open, kit: Kit, check: impl AsyncFnOnce(&Contract<'_>)) {
    if kit.user != 0 {
        scene.become_user(kit.user);
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio");
    let runtime = open(&Magikrun::new(scene));
    let here = tokio.block_on(runtime.availability(class(&*runtime)));
    let here = here.expect("it is there");
    if !here.available {
        #[expect(
            clippy::print_stderr,
            reason = "a skipped test says so where the runner shows it"
        )]
        {
            eprintln!("SKIPPED {}: {}", scene.dir().display(), here.detail);
        }
        return;
    }
    tokio.block_on(async {
        let t = tokio::time::timeout(5 * TIMEOUT, Contract::new(scene, open, kit))
            .await
            .expect("the first pod hangs");
        let timeout = if is_slow(&*t.runtime) {
            5 * TIMEOUT
        } else {
            TIMEOUT
        };
        tokio::time::timeout(timeout, check(&t))
            .await
            .expect("the check hangs");
    });
}

/// Makes a test of every promise, for the runtime that an [`Open`] function opens and the [`Kit`] its containers run.
#[macro_export]
macro_rules! pod_contract {
    ($open:path, $kit:path) => {
        $crate::pod_contract!(@each $open, $kit;
            // lifecycle
            runs_every_container_before_it_returns
            containers_of_a_pod_share_network_hostname_and_volumes
            containers_find_the_names_of_host_aliases
            init_containers_run_one_after_the_other_before_the_rest
            a_pod_is_over_when_its_last_container_is
            exit_code_is_that_of_the_first_container_that_failed
            stop_lets_programs_end_and_kills_the_others_after_the_grace_period
            stopping_twice_gives_the_same_answer
            a_running_pod_is_deleted_only_by_force
            deleting_twice_is_no_error_with_force
            a_deleted_pods_name_is_free_again
            a_name_belongs_to_one_pod_per_namespace
            two_callers_racing_for_a_name_have_one_winner
            two_callers_stopping_and_deleting_one_pod_agree
            many_pods_live_and_die_at_once
            a_dropped_run_leaves_nothing
            two_hundred_lives_leak_nothing
            a_deadline_ends_a_pod
            a_pod_is_addressed_by_name_id_and_start_of_id
            // changes
            a_container_is_run_again_and_the_others_go_on
            a_container_is_stopped_run_again_and_removed
            a_pod_that_is_stopped_runs_nothing_again
            who_asks_last_for_a_container_decides
            a_container_is_added_to_a_pod_that_runs
            a_container_that_cannot_be_added_leaves_nothing
            names_of_added_containers_are_given_again
            // streams
            logs_keep_both_streams_apart_and_outlive_the_container
            following_a_log_ends_with_its_container
            logs_are_cut_by_tail_and_carry_times_when_asked
            exec_passes_exit_codes_signals_and_both_streams
            exec_passes_input_environment_directory_and_user
            exec_gives_a_terminal_of_the_size_asked_for
            exec_says_when_a_program_or_a_container_is_not_there
            stats_name_every_container_and_count_its_memory
            processes_are_those_of_each_container
            events_tell_a_pods_life_in_order
            a_port_of_the_pod_is_reached_from_outside
            // watch
            who_watches_sees_every_pod_come_change_and_go
            who_watches_sees_an_init_die
            // faults
            a_bad_image_is_named_and_leaves_nothing
            a_missing_command_in_the_third_container_is_named_and_leaves_nothing
            a_failing_init_container_is_named_and_leaves_nothing
            an_undefined_volume_is_named_and_leaves_nothing
            a_host_port_in_use_is_named_and_leaves_nothing
            a_name_in_use_is_named_and_leaves_nothing
            a_full_disk_leaves_nothing_wherever_it_hits
        );
    };
    (@each $open:path, $kit:path; $($name:ident)*) => {
        $( $crate::isolated!(fn $name(scene) {
            $crate::contract::check(scene, $open, $kit, $crate::contract::$name);
        }); )*
    };
}
