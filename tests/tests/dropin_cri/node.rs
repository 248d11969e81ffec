//! A node without a kubelet: containerd with its CRI plugin, and the calls a kubelet makes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use magikrun_test_cri::api::{self, Call};
use magikrun_tests::dropin::{
    BOX, Client, Containerd, Stage, busybox_tar, docker_archive, documented, eventually, until_caught,
};
use rustix::process::Signal;

/// The handler of Kubernetes' RuntimeClass that the checks name.
pub(crate) const HANDLER: &str = "magikrun";
/// A pod's first process: it holds the namespaces and reaps.
const PAUSE: (&str, &[&str]) = (
    "localhost/pause:latest",
    &[
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 86400 & wait $!; done",
    ],
);
/// A program that ends at SIGTERM with 3.
pub(crate) const SLEEPER: &str = "trap 'exit 3' TERM; while :; do sleep 0.1; done";

pub(crate) struct Node {
    client: magikrun_test_cri::Client,
    pub(crate) containerd: Containerd,
    /// `ctr` in the namespace of the CRI plugin; it makes names, too.
    pub(crate) ctr: Client,
    pub(crate) dir: PathBuf,
}

impl Node {
    pub(crate) fn start(stage: &Stage) -> Result<Self> {
        let dir = stage.dir.clone();
        fs::create_dir_all(dir.join("cni"))?;
        let network = serde_json::json!({
            "cniVersion": "0.4.0", "name": "pods",
            "plugins": [{
                "type": "bridge", "bridge": "pods0", "isGateway": true,
                "ipam": {"type": "host-local", "dataDir": dir.join("cni-data"), "ranges": [[{"subnet": "10.88.0.0/16"}]]},
            }],
        });
        fs::write(dir.join("cni/10-pods.conflist"), network.to_string())?;
        let containerd = Containerd::start(&dir, &plugin(&dir, &stage.runtime))?;
        let ctr = containerd.ctr(&["-n", "k8s.io"]);
        let archive = busybox_tar(&dir).and_then(|tar| docker_archive(&dir, &tar, &[BOX, PAUSE]))?;
        ctr.ok(&format!("images import {}", archive.display()))?;
        let client = magikrun_test_cri::Client::new(&containerd.socket())?;
        let node = Self {
            client,
            containerd,
            ctr,
            dir,
        };
        node.wait_until_ready()?;
        Ok(node)
    }

    /// Waits for what a kubelet waits for before it sends a node's first pod.
    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        let mut said = String::new();
        eventually("the node is ready", || {
            match self.call(api::StatusRequest::default()) {
                Ok(answer) => {
                    let conditions = answer.status.unwrap_or_default().conditions;
                    said = format!("{conditions:?}");
                    conditions.len() >= 2 && conditions.iter().all(|c| c.status)
                }
                Err(error) => {
                    said = format!("{error:#}");
                    false
                }
            }
        })
        .with_context(|| said)
    }

    /// Makes a call; it is given up after half a minute.
    pub(crate) fn call<Q: Call>(&self, request: Q) -> Result<Q::Answer> {
        self.client.call(request)
    }

    /// A pod with a network of its own.
    pub(crate) fn pod(&self) -> Result<Pod<'_>> {
        self.pod_with(|_| {})
    }

    /// A pod whose configuration was changed.
    pub(crate) fn pod_with(&self, change: impl FnOnce(&mut api::PodSandboxConfig)) -> Result<Pod<'_>> {
        let name = self.ctr.name();
        let mut config = api::PodSandboxConfig {
            metadata: Some(api::PodSandboxMetadata {
                name: name.clone(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
            }),
            hostname: name.clone(),
            log_directory: self.dir.join(format!("logs-{name}")).display().to_string(),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod-{name}"),
                security_context: Some(api::LinuxSandboxSecurityContext {
                    namespace_options: Some(api::NamespaceOption {
                        pid: api::namespace::CONTAINER,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = api::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: HANDLER.to_owned(),
        };
        let id = self.call(request)?.pod_sandbox_id;
        Ok(Pod {
            node: self,
            id,
            config,
        })
    }
}

/// The configuration of the CRI plugin: what docs/drop-in.md says, and what these machines need.
fn plugin(dir: &Path, runtime: &Path) -> String {
    let documented = documented("io.containerd.runc.v2", runtime).replace("version = 2\n", "");
    let cni = dir.join("cni");
    format!(
        "{documented}\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{}\"\n\
         disable_apparmor = true\n\
         restrict_oom_score_adj = true\n\
         stream_server_address = \"127.0.0.1\"\n\
         stream_server_port = \"0\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n\
         conf_dir = {cni:?}\n",
        PAUSE.0
    )
}

/// A pod's sandbox, removed with everything in it at the end of its check.
pub(crate) struct Pod<'a> {
    node: &'a Node,
    pub(crate) id: String,
    config: api::PodSandboxConfig,
}

impl<'a> Pod<'a> {
    /// A container that runs a script, not yet started.
    pub(crate) fn create(
        &self,
        script: &str,
        change: impl FnOnce(&mut api::ContainerConfig),
    ) -> Result<Container<'a>> {
        let name = self.node.ctr.name();
        let mut config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: name.clone() }),
            image: Some(api::ImageSpec {
                image: BOX.0.to_owned(),
            }),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(api::LinuxContainerConfig {
                security_context: Some(api::LinuxContainerSecurityContext {
                    namespace_options: self.namespaces(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = api::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.node.call(request)?.container_id;
        Ok(Container {
            node: self.node,
            id,
            log,
        })
    }

    /// A started container that runs a script.
    pub(crate) fn start(
        &self,
        script: &str,
        change: impl FnOnce(&mut api::ContainerConfig),
    ) -> Result<Container<'a>> {
        let container = self.create(script, change)?;
        container.start()?;
        Ok(container)
    }

    /// Runs a script to its end, which must come with exit code 0, and returns what it printed.
    pub(crate) fn run(&self, script: &str, change: impl FnOnce(&mut api::ContainerConfig)) -> Result<String> {
        let container = self.start(script, change)?;
        let status = container.ended()?;
        let said = container.stdout()?;
        ensure!(status.exit_code == 0, "{script}: {status:?}: {said}");
        Ok(said)
    }

    /// As [`run`](Self::run), and it must have printed this.
    pub(crate) fn says(
        &self,
        script: &str,
        change: impl FnOnce(&mut api::ContainerConfig),
        expected: &str,
    ) -> Result<()> {
        let said = self.run(script, change)?;
        ensure!(said.trim() == expected, "{script}: {said:?}, not {expected:?}");
        Ok(())
    }

    /// The namespaces it was asked for, which its containers are asked for, too.
    fn namespaces(&self) -> Option<api::NamespaceOption> {
        self.config
            .linux
            .as_ref()?
            .security_context
            .as_ref()?
            .namespace_options
            .clone()
    }

    pub(crate) fn status(&self) -> Result<api::PodSandboxStatus> {
        let request = api::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        self.node.call(request)?.status.context("no status")
    }

    /// Its address.
    pub(crate) fn ip(&self) -> Result<String> {
        let ip = self.status()?.network.unwrap_or_default().ip;
        ensure!(!ip.is_empty(), "no address");
        Ok(ip)
    }

    /// The host's id of its first process.
    pub(crate) fn pid(&self) -> Result<u64> {
        let request = api::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: true,
        };
        pid_in(&self.node.call(request)?.info)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        self.node
            .call(api::StopPodSandboxRequest {
                pod_sandbox_id: self.id.clone(),
            })
            .map(drop)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        self.node
            .call(api::RemovePodSandboxRequest {
                pod_sandbox_id: self.id.clone(),
            })
            .map(drop)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.stop();
        let _ = self.remove();
    }
}

/// A container; it is removed with its pod.
pub(crate) struct Container<'a> {
    node: &'a Node,
    pub(crate) id: String,
    /// The file its output goes to.
    pub(crate) log: PathBuf,
}

impl Container<'_> {
    pub(crate) fn start(&self) -> Result<()> {
        self.node
            .call(api::StartContainerRequest {
                container_id: self.id.clone(),
            })
            .map(drop)
    }

    /// Waits until its program handles a signal, and returns [`pid`](Self::pid).
    pub(crate) fn catching(&self, signal: Signal) -> Result<u64> {
        let pid = self.pid()?;
        until_caught(pid, signal)?;
        Ok(pid)
    }

    /// Stops it with a grace period in seconds.
    pub(crate) fn stop(&self, timeout: i64) -> Result<()> {
        self.node
            .call(api::StopContainerRequest {
                container_id: self.id.clone(),
                timeout,
            })
            .map(drop)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        self.node
            .call(api::RemoveContainerRequest {
                container_id: self.id.clone(),
            })
            .map(drop)
    }

    pub(crate) fn status(&self) -> Result<api::ContainerStatus> {
        let request = api::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        self.node.call(request)?.status.context("no status")
    }

    /// The host's id of its first process.
    pub(crate) fn pid(&self) -> Result<u64> {
        let request = api::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: true,
        };
        pid_in(&self.node.call(request)?.info)
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&self) -> Result<api::ContainerStatus> {
        let mut status = self.status();
        eventually("the container ends", || {
            status = self.status();
            !matches!(&status, Ok(s) if s.state != api::state::EXITED)
        })?;
        status
    }

    pub(crate) fn exec_within(&self, seconds: i64, command: &[&str]) -> Result<api::ExecSyncResponse> {
        self.node.call(api::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|s| (*s).to_owned()).collect(),
            timeout: seconds,
        })
    }

    /// What a script that must succeed in it prints.
    pub(crate) fn exec(&self, script: &str) -> Result<String> {
        let done = self.exec_within(20, &["sh", "-c", script])?;
        ensure!(done.exit_code == 0, "{script}: {done:?}");
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Its log, line by line.
    pub(crate) fn lines(&self) -> Result<Vec<Line>> {
        let text = fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        text.lines().map(Line::parse).collect()
    }

    /// What it has printed on standard output.
    pub(crate) fn stdout(&self) -> Result<String> {
        let lines = self.lines()?;
        let ours = lines.iter().filter(|l| l.stream == "stdout");
        Ok(ours
            .map(|l| {
                if l.full {
                    format!("{}\n", l.text)
                } else {
                    l.text.clone()
                }
            })
            .collect())
    }
}

/// A line of a log as the kubelet reads it: `2016-10-06T00:17:09.669794202Z stdout F text`.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stream: String,
    /// Whether this ends a line of the program's; else more of it follows.
    pub(crate) full: bool,
    pub(crate) text: String,
}

impl Line {
    fn parse(line: &str) -> Result<Self> {
        let mut parts = line.splitn(4, ' ');
        let mut next = || {
            parts
                .next()
                .with_context(|| format!("not a CRI log line: {line:?}"))
        };
        let (time, stream, tag, text) = (next()?, next()?, next()?, next()?);
        time.parse::<jiff::Timestamp>().with_context(|| line.to_owned())?;
        let full = match tag {
            "F" => true,
            "P" => false,
            _ => bail!("tag of {line:?}"),
        };
        Ok(Self {
            stream: stream.to_owned(),
            full,
            text: text.to_owned(),
        })
    }
}

fn pid_in(info: &std::collections::HashMap<String, String>) -> Result<u64> {
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no verbose information")?)?;
    info["pid"].as_u64().context("no pid")
}
