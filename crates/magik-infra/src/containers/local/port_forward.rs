//! A connection to a port on the pod's loopback.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use ttrpc::Code;

use crate::{
    containers::{PortStream, StreamCall},
    error::refused,
    rpc::control as proto,
};

/// How much is read from the port at once, in bytes.
const READ_SIZE: usize = 8 << 10;

pub(super) async fn port_forward(call: StreamCall<'_>, mut stream: PortStream) -> ttrpc::Result<()> {
    let StreamCall {
        meter, number: call, ..
    } = call;
    // ttrpc does not end a waiting handler with its connection.
    let first = tokio::select! {
        first = stream.recv() => first?,
        () = meter.closed() => None,
    };
    let Some(first) = first else { return Ok(()) };
    let port = u16::try_from(first.port).ok().filter(|p| *p != 0);
    let port = port.ok_or_else(|| refused(Code::INVALID_ARGUMENT, format!("{} is no port", first.port)))?;
    let connection = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| {
        refused(
            Code::UNAVAILABLE,
            format!("cannot connect to port {port} in the pod: {e}"),
        )
    })?;
    let (mut from_pod, mut to_pod) = connection.into_split();
    let (sender, mut receiver) = stream.split();

    let acknowledge = sender.clone();
    let upstream = async {
        let mut message = first;
        loop {
            if !message.data.is_empty() {
                let written = to_pod.write_all(&message.data).await;
                meter.release(Some(call), message.data.len());
                let mut taken = proto::PortData::new();
                taken.taken = u32::try_from(message.data.len()).unwrap_or(u32::MAX);
                acknowledge.send(&taken).await?;
                if written.is_err() {
                    break;
                }
            }
            if message.eof {
                break;
            }
            message = match receiver.recv().await? {
                Some(message) => message,
                // The client gave up.
                None => return Err(ttrpc::Error::Eof),
            };
        }
        let _ = to_pod.shutdown().await;
        Ok(())
    };
    let downstream = async {
        loop {
            let mut message = proto::PortData::new();
            let mut buffer = vec![0; READ_SIZE];
            let n = from_pod.read(&mut buffer).await.unwrap_or(0);
            buffer.truncate(n);
            message.data = buffer;
            message.eof = n == 0;
            sender.send(&message).await?;
            if n == 0 {
                return Ok::<_, ttrpc::Error>(());
            }
        }
    };
    // Each direction ends by itself; the call when both have, or when the client is gone.
    tokio::select! {
        ended = async { tokio::try_join!(upstream, downstream) } => ended.map(|((), ())| ()),
        () = meter.closed() => Ok(()),
    }
}
