//! `pod port-forward`.

use std::{net::Ipv4Addr, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use magik_pri::PodRuntime;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::advise;
use crate::{failure, output, pod::backend, roots::GlobalArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct ForwardArgs {
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
    /// Port on 127.0.0.1 here and port in the pod; one number is both, :REMOTE takes any free port here
    #[arg(required = true, value_name = "[LOCAL:]REMOTE", value_parser = parse_ports)]
    ports: Vec<Ports>,
}

/// A pair of TCP ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    /// Here; 0: any free one.
    local: u16,
    /// In the pod.
    remote: u16,
}

fn parse_ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| format!("{text:?} is no port: use a number from 1 to 65535"))
    };
    match text.split_once(':') {
        None => port(text).map(|p| Ports { local: p, remote: p }),
        Some(("", remote)) => Ok(Ports {
            local: 0,
            remote: port(remote)?,
        }),
        Some((local, remote)) => Ok(Ports {
            local: port(local)?,
            remote: port(remote)?,
        }),
    }
}

pub(super) async fn run(global: &GlobalArgs, args: &ForwardArgs) -> Result<ExitCode> {
    let runtime: Arc<dyn PodRuntime> = backend::pods(global)?.into();
    // The pod's id: a name could come to mean another pod.
    let status = runtime.pod_status(&args.pod).await.map_err(advise)?;
    let name = format!("{}/{}", status.namespace, status.name);
    if status.phase.is_final() {
        bail!("pod {name}: it is over, so nothing listens in it: see 'magikrun pod status'");
    }
    let pod: Arc<str> = status.id.into();
    let mut listeners = Vec::new();
    for ports in &args.ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.local)).await;
        let listener = listener.with_context(|| format!("127.0.0.1:{}: listen", ports.local))?;
        output::line(format_args!(
            "forwarding {} to port {} of the pod",
            listener.local_addr()?,
            ports.remote
        ))?;
        listeners.push((listener, ports.remote));
    }
    let mut tasks = JoinSet::new();
    for (listener, port) in listeners {
        tasks.spawn(accept(listener, port, Arc::clone(&runtime), Arc::clone(&pod)));
    }
    tokio::select! {
        Some(ended) = tasks.join_next() => ended.context("port-forward")??,
        over = runtime.wait_pod(&pod) => {
            over?;
            bail!("pod {name}: it is over: nothing is forwarded any more");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves one port until the listener fails.
async fn accept(listener: TcpListener, port: u16, runtime: Arc<dyn PodRuntime>, pod: Arc<str>) -> Result<()> {
    loop {
        let (stream, from) = listener.accept().await.context("accept a connection")?;
        let (runtime, pod) = (Arc::clone(&runtime), Arc::clone(&pod));
        tokio::spawn(async move {
            if let Err(error) = serve(stream, port, runtime.as_ref(), &pod).await {
                // One connection's failure is no reason to end the others.
                failure::print(format_args!("{from}: {}", failure::chain(&error)));
            }
        });
    }
}

/// Passes one connection on until both directions have ended.
async fn serve(stream: TcpStream, port: u16, runtime: &dyn PodRuntime, pod: &str) -> Result<()> {
    Ok(runtime.port_forward(pod, port).await?.copy(stream).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports_as_kubectl_does() {
        assert_eq!(
            parse_ports("8080:80"),
            Ok(Ports {
                local: 8080,
                remote: 80
            })
        );
        assert_eq!(
            parse_ports("80"),
            Ok(Ports {
                local: 80,
                remote: 80
            })
        );
        assert_eq!(parse_ports(":80"), Ok(Ports { local: 0, remote: 80 }));
        for wrong in [
            "",
            ":",
            "0",
            "80:",
            "80:0",
            "65536",
            "http",
            "1:2:3",
            "127.0.0.1:1:2",
        ] {
            assert!(parse_ports(wrong).is_err(), "{wrong}");
        }
    }
}
