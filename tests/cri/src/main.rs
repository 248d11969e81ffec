//! A pod from the command line, with the calls that a kubelet makes: `up SOCKET NAME IMAGE COUNT COMMAND…` prints the id of
//! its sandbox, `down SOCKET ID` removes it.
#![allow(clippy::print_stdout, reason = "the answer of a command")]

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use magikrun_test_cri::{Client, api};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["up", socket, name, image, count, command @ ..] => {
            let count = count.parse().context("a number of containers")?;
            println!("{}", up(&client(socket)?, name, image, count, command)?);
            Ok(())
        }
        ["down", socket, id] => down(&client(socket)?, id),
        _ => bail!("up SOCKET NAME IMAGE COUNT COMMAND… | down SOCKET ID"),
    }
}

fn client(socket: &str) -> Result<Client> {
    Client::new(Path::new(socket))
}

/// A sandbox and its containers, one after the other, as a kubelet does. It has the node's network, so that no network
/// plugin has to run.
fn up(client: &Client, name: &str, image: &str, count: usize, command: &[&str]) -> Result<String> {
    let namespaces = Some(api::NamespaceOption {
        network: api::namespace::NODE,
        pid: api::namespace::CONTAINER,
        ..Default::default()
    });
    let config = api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
        }),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: format!("/kubepods/pod-{name}"),
            security_context: Some(api::LinuxSandboxSecurityContext {
                namespace_options: namespaces.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = api::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let pod_sandbox_id = client.call(request)?.pod_sandbox_id;
    for number in 0..count {
        let container = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata {
                name: format!("c{number}"),
            }),
            image: Some(api::ImageSpec {
                image: image.to_owned(),
            }),
            command: command.iter().map(|s| (*s).to_owned()).collect(),
            linux: Some(api::LinuxContainerConfig {
                security_context: Some(api::LinuxContainerSecurityContext {
                    namespace_options: namespaces.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = api::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let container_id = client.call(request)?.container_id;
        client.call(api::StartContainerRequest { container_id })?;
    }
    Ok(pod_sandbox_id)
}

/// The fewest calls that remove a pod: its containers are killed with it.
fn down(client: &Client, id: &str) -> Result<()> {
    client.call(api::StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    })?;
    client.call(api::RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    })?;
    Ok(())
}
