//! Connections to the host: the guest dials, the host answers.

use std::io;

use magik_infra::{
    Acceptor,
    guest::{Hello, Kind, NONCE, PORT, Welcome},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

/// Dials the host with this guest's nonce.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    nonce: [u8; NONCE],
}

impl Dialer {
    pub(crate) const fn new(nonce: [u8; NONCE]) -> Self {
        Self { nonce }
    }

    /// Dials, and waits until the host uses the connection.
    async fn dial(&self, kind: Kind) -> io::Result<(VsockStream, Welcome)> {
        let mut stream = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, PORT)).await?;
        let hello = Hello {
            kind,
            nonce: self.nonce,
        };
        stream.write_all(&hello.encode()).await?;
        let mut welcome = [0; Welcome::LEN];
        stream.read_exact(&mut welcome).await?;
        let welcome =
            Welcome::decode(&welcome).ok_or_else(|| io::Error::other("the host's answer is no welcome"))?;
        Ok((stream, welcome))
    }

    /// The launch connection, and the host's time.
    ///
    /// # Errors
    /// The host does not answer, or something that is no welcome.
    pub(crate) async fn launch(&self) -> io::Result<(VsockStream, Welcome)> {
        self.dial(Kind::Launch).await
    }
}

/// There is always one connection that the host may use next.
impl Acceptor for Dialer {
    type Stream = VsockStream;

    async fn accept(&mut self) -> io::Result<VsockStream> {
        Ok(self.dial(Kind::Control).await?.0)
    }
}
