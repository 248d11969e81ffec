//! A connection to a port of a pod, from the client's side.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
};
use ttrpc::r#async::{CSReceiver, CSSender, ClientStream};

use super::{
    ControlClient, Result, error,
    streams::size,
    window::{PIECE, Window},
};
use crate::{error::ControlError, rpc::control as proto};

/// A connection to a port of a pod.
#[derive(Debug)]
pub struct PortForward {
    /// What the port sends. Must be read for the other direction to go on.
    pub reader: PortReader,
    /// What goes to the port.
    pub writer: PortWriter,
}

impl PortForward {
    pub(super) async fn start(
        client: ControlClient,
        stream: ClientStream<proto::PortData, proto::PortData>,
        port: u16,
    ) -> Result<Self> {
        let (sender, receiver) = stream.split();
        let (client, window) = (Arc::new(client), Window::new());
        let writer = PortWriter {
            sender,
            window: window.clone(),
            _client: client.clone(),
        };
        writer.send(|message| message.port = port.into()).await?;
        Ok(Self {
            reader: PortReader {
                receiver,
                window,
                client,
                ended: false,
            },
            writer,
        })
    }

    /// Connects a local stream with the port, until both directions have ended.
    ///
    /// # Errors
    /// Nobody listens at the port, or a connection broke.
    pub async fn copy<S: AsyncRead + AsyncWrite>(self, local: S) -> Result<()> {
        let Self { mut reader, writer } = self;
        let (mut from_local, mut to_local) = tokio::io::split(local);
        let (sent, mut all_sent) = watch::channel(false);
        let up = async {
            let mut buffer = vec![0; PIECE];
            loop {
                match from_local.read(&mut buffer).await.unwrap_or(0) {
                    0 => break,
                    n => writer.write(&buffer[..n]).await?,
                }
            }
            writer.close().await?;
            sent.send_replace(true);
            Ok::<_, ControlError>(())
        };
        let down = async {
            while let Some(bytes) = reader.next().await? {
                if to_local.write_all(&bytes).await.is_err() {
                    return Err(ControlError::Disconnected);
                }
            }
            let _ = to_local.shutdown().await;
            // What is sent now is still acknowledged, until all of it is or the port wants no more.
            tokio::select! {
                _ = all_sent.wait_for(|sent| *sent) => {}
                () = reader.acknowledged() => {}
            }
            Ok(())
        };
        tokio::pin!(down);
        tokio::select! {
            ended = &mut down => ended,
            sent = up => {
                sent?;
                down.await
            }
        }
    }
}

/// The direction from the port.
#[derive(Debug)]
pub struct PortReader {
    receiver: CSReceiver<proto::PortData>,
    window: Window,
    client: Arc<ControlClient>,
    ended: bool,
}

impl PortReader {
    /// What comes next; `None`: the port has closed its side.
    ///
    /// # Errors
    /// Nobody listens at the port, or the connection ended.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        while !self.ended {
            let message = self.message().await?;
            self.ended = message.eof;
            if !message.data.is_empty() {
                return Ok(Some(message.data));
            }
        }
        Ok(None)
    }

    /// Takes acknowledgements until the call ends.
    async fn acknowledged(&mut self) {
        while self.message().await.is_ok() {}
    }

    async fn message(&mut self) -> Result<proto::PortData> {
        let message = self.receiver.recv().await.map_err(error)?;
        self.client.meter.release(None, size(&message));
        self.window.give_back(message.taken);
        Ok(message)
    }
}

/// The direction to the port.
#[derive(Debug, Clone)]
pub struct PortWriter {
    sender: CSSender<proto::PortData>,
    window: Window,
    _client: Arc<ControlClient>,
}

impl PortWriter {
    /// Sends bytes; waits while the port does not take what was sent before.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        self.window
            .send(bytes, |piece| self.send(|message| message.data = piece))
            .await
    }

    /// Nothing more will be sent.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn close(&self) -> Result<()> {
        self.send(|message| message.eof = true).await
    }

    async fn send(&self, set: impl FnOnce(&mut proto::PortData)) -> Result<()> {
        let mut message = proto::PortData::new();
        set(&mut message);
        self.sender.send(&message).await.map_err(error)
    }
}
