//! What probes and hooks do: a program in the container, a request by HTTP or gRPC, a connection, or
//! nothing.

mod bounded;
mod grpc;
mod http;
mod program;
mod tls;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use magik_oci::{ContainerId, OciRuntime};
use tokio::{
    net::TcpStream,
    sync::OnceCell,
    time::{sleep, timeout},
};

use self::bounded::Bounded;
use crate::plan::Handler;

/// Whom a request without a host is sent to: the pod's loopback.
const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Why something was not done, or was not answered well; for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandlerError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("exit code {code}{}", after_colon(.output))]
    Exit { code: i32, output: String },
    #[error("cannot be run: {0}")]
    Program(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("the connection ended: {0}")]
    Connection(#[from] io::Error),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the answer is no HTTP: {0}")]
    NoHttp(String),
    #[error("no TLS: {0}")]
    NoTls(io::Error),
    #[error("the answer is no gRPC: {0}")]
    NoGrpc(String),
    #[error("the answer is no gRPC: {}", in_short(.0))]
    Http2(#[from] h2::Error),
    #[error("gRPC status {code}{}", after_colon(.message))]
    Grpc { code: u16, message: String },
    #[error("the service is {0}")]
    NotServing(&'static str),
}

/// Without the data that a server can add.
fn in_short(error: &h2::Error) -> String {
    error
        .reason()
        .map_or_else(|| error.to_string(), |reason| reason.description().to_owned())
}

fn after_colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// The container that it is about, in one of its runs.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) runtime: Arc<dyn OciRuntime>,
    pub(super) id: ContainerId,
    pub(super) bundle: PathBuf,
    /// Its own process, read once: a probe runs every second.
    process: OnceCell<oci_spec::runtime::Process>,
}

impl Subject {
    pub(super) fn new(runtime: Arc<dyn OciRuntime>, id: ContainerId, bundle: PathBuf) -> Self {
        Self {
            runtime,
            id,
            bundle,
            process: OnceCell::new(),
        }
    }

    /// Does it, for at most so long. A program that takes longer is killed; its start counts, too: a
    /// file system of the container's can keep a program from starting.
    pub(super) async fn perform(&self, handler: &Handler, limit: Duration) -> Result<(), HandlerError> {
        let done = async {
            match handler {
                Handler::Exec { command } => self.run(command).await,
                Handler::Sleep { seconds } => {
                    sleep(Duration::from_secs(*seconds)).await;
                    Ok(())
                }
                Handler::HttpGet {
                    host,
                    port,
                    path,
                    headers,
                    tls,
                } => {
                    let address = SocketAddr::new(host.unwrap_or(POD), *port);
                    let stream = connect(address).await?;
                    if *tls {
                        let stream = tls::connect(stream, address.ip(), tls::Protocol::Http1).await?;
                        http::get(stream, address, path, headers).await
                    } else {
                        http::get(stream, address, path, headers).await
                    }
                }
                Handler::Grpc { port, service, tls } => {
                    let address = SocketAddr::new(POD, *port);
                    let stream = connect(address).await?;
                    if *tls {
                        let stream = tls::connect(stream, address.ip(), tls::Protocol::Http2).await?;
                        grpc::check(stream, address, service).await
                    } else {
                        grpc::check(stream, address, service).await
                    }
                }
                Handler::TcpSocket { host, port } => {
                    let address = SocketAddr::new(host.unwrap_or(POD), *port);
                    connect(address).await.map(drop)
                }
            }
        };
        match (timeout(limit, done).await, handler) {
            (Ok(done), _) => done,
            // Nothing has failed to answer.
            (Err(_), Handler::Sleep { .. }) => Ok(()),
            (Err(_), _) => Err(HandlerError::Timeout(limit)),
        }
    }
}

async fn connect(address: SocketAddr) -> Result<Bounded<TcpStream>, HandlerError> {
    let connected = TcpStream::connect(address).await;
    let stream = connected.map_err(|source| HandlerError::Connect { address, source })?;
    Ok(Bounded::new(stream))
}
