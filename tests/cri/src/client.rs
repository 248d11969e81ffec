//! One connection to a node.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Runtime;
use tonic::{Request, transport::Channel};
use tonic_prost::ProstCodec;

use crate::api::Call;

/// A connection to a server of the interface on a unix socket.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// A client of the server at `socket`, which need not be up before the first call.
    ///
    /// # Errors
    /// There is no thread to be had, or the path is no address.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = {
            let _entered = runtime.enter();
            endpoint.connect_lazy()
        };
        Ok(Self { runtime, channel })
    }

    /// Makes a call; it is given up after half a minute.
    ///
    /// # Errors
    /// Of the server, or there is no answer.
    pub fn call<Q: Call>(&self, request: Q) -> Result<Q::Answer> {
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(Q::PATH);
        let call = async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await?;
            let codec = ProstCodec::<Q, Q::Answer>::default();
            let mut request = Request::new(request);
            request.set_timeout(Duration::from_secs(30));
            let answer = client
                .unary(request, path, codec)
                .await
                .map_err(|status| anyhow!("{:?}: {}", status.code(), status.message()))?;
            anyhow::Ok(answer.into_inner())
        };
        self.runtime
            .block_on(async {
                tokio::time::timeout(Duration::from_secs(40), call)
                    .await
                    .context("no answer in time")?
            })
            .with_context(|| Q::PATH)
    }
}
