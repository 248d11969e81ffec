//! One question by gRPC's health checking protocol (`grpc.health.v1.Health/Check`).

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes};
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use http::{HeaderMap, Request, StatusCode};
use protobuf::{CodedInputStream, CodedOutputStream};
use tokio::io::{AsyncRead, AsyncWrite};

use super::HandlerError;

/// The largest headers that are read, in bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// The largest answer that is read, in bytes: it holds one number.
const MAX_ANSWER: usize = 4 << 10;
/// The field `service` of `HealthCheckRequest`, and `status` of `HealthCheckResponse`.
const FIELD: u32 = 1;
/// What goes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Characters of a server's message that are kept.
const MAX_MESSAGE: usize = 256;

/// `SERVING` is good.
pub(super) async fn check<S>(stream: S, address: SocketAddr, service: &str) -> Result<(), HandlerError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = Builder::new()
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake::<_, Bytes>(stream);
    let (requests, connection) = handshake.await?;
    let mut asking = std::pin::pin!(ask(requests, address, service));
    tokio::select! {
        answer = &mut asking => answer,
        // What came before its end is there, and what did not come fails now.
        _ended = connection => asking.await,
    }
}

async fn ask(requests: SendRequest<Bytes>, address: SocketAddr, service: &str) -> Result<(), HandlerError> {
    let no_grpc = |what: &dyn std::fmt::Display| HandlerError::NoGrpc(what.to_string());
    let mut requests = requests.ready().await?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(
            "user-agent",
            concat!("magikrun-probe/", env!("CARGO_PKG_VERSION")),
        )
        .body(())
        .map_err(|e| no_grpc(&e))?;
    let (response, mut body) = requests.send_request(request, false)?;
    body.send_data(framed(service).map_err(|e| no_grpc(&e))?, true)?;
    let (head, mut body) = response.await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(HandlerError::Status(head.status.as_u16()));
    }
    // An answer without a message says all in its head.
    said(&head.headers)?;
    let answer = read(&mut body).await?;
    if let Some(trailers) = body.trailers().await? {
        said(&trailers)?;
    }
    match status(&answer).map_err(|e| no_grpc(&e))? {
        1 => Ok(()),
        2 => Err(HandlerError::NotServing("NOT_SERVING")),
        3 => Err(HandlerError::NotServing("SERVICE_UNKNOWN")),
        _ => Err(HandlerError::NotServing("UNKNOWN")),
    }
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, HandlerError> {
    let mut answer = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        answer.extend_from_slice(&data);
        if answer.len() > MAX_ANSWER {
            return Err(HandlerError::NoGrpc(format!(
                "it has more than {MAX_ANSWER} bytes"
            )));
        }
    }
    Ok(answer)
}

/// An error that headers or trailers tell.
fn said(headers: &HeaderMap) -> Result<(), HandlerError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = text("grpc-status") else {
        return Ok(());
    };
    match code.parse() {
        Ok(0) => Ok(()),
        Ok(code) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(HandlerError::Grpc {
                code,
                message: message.chars().take(MAX_MESSAGE).collect(),
            })
        }
        Err(_) => Err(HandlerError::NoGrpc(format!("grpc-status is {code:?}"))),
    }
}

/// A request for the health of a service.
fn framed(service: &str) -> protobuf::Result<Bytes> {
    let mut message = Vec::new();
    if !service.is_empty() {
        let mut out = CodedOutputStream::vec(&mut message);
        out.write_string(FIELD, service)?;
        out.flush()?;
    }
    let mut frame = Vec::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // A name in a manifest has far less than 4 GiB.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message);
    Ok(frame.into())
}

/// The number that an answer has: absent it is 0.
fn status(mut answer: &[u8]) -> Result<i32, String> {
    if answer.len() < PREFIX {
        return Err("it has no message".to_owned());
    }
    let compressed = answer.get_u8();
    let length = answer.get_u32();
    if compressed != 0 {
        return Err("it is compressed, which was not asked for".to_owned());
    }
    if usize::try_from(length) != Ok(answer.len()) {
        return Err(format!("{length} bytes were announced, {} came", answer.len()));
    }
    number(answer).map_err(|e| e.to_string())
}

fn number(message: &[u8]) -> protobuf::Result<i32> {
    let mut fields = CodedInputStream::from_bytes(message);
    let mut status = 0;
    while let Some(tag) = fields.read_raw_tag_or_eof()? {
        // The lowest three bits are the kind of what follows: 0 is a number.
        if tag == FIELD << 3 {
            status = fields.read_int32()?;
        } else {
            protobuf::rt::skip_field_for_tag(tag, &mut fields)?;
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// A server that answers one question so.
    async fn answered(
        data: &'static [u8],
        trailers: &'static [(&'static str, &'static str)],
    ) -> Result<(), HandlerError> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let server = async move {
            let mut server = h2::server::handshake(theirs).await.unwrap();
            let (request, mut respond) = server.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let mut body = request.into_body();
            let question = body.data().await.unwrap().unwrap();
            assert_eq!(&question[..], b"\0\0\0\0\x05\x0a\x03web");
            let mut sent = respond.send_response(Response::new(()), false).unwrap();
            sent.send_data(Bytes::from_static(data), false).unwrap();
            let mut map = HeaderMap::new();
            for (name, value) in trailers {
                map.insert(*name, value.parse().unwrap());
            }
            sent.send_trailers(map).unwrap();
            std::future::poll_fn(|cx| server.poll_closed(cx)).await
        };
        let server = tokio::spawn(server);
        let answer = check(ours, ([127, 0, 0, 1], 80).into(), "web").await;
        server.abort();
        answer
    }

    const OK: &[(&str, &str)] = &[("grpc-status", "0")];

    #[tokio::test]
    async fn serving_is_good_and_all_else_is_not() {
        answered(b"\0\0\0\0\x02\x08\x01", OK).await.unwrap();
        // With a field that is not known here.
        answered(b"\0\0\0\0\x05\x12\x01x\x08\x01", OK).await.unwrap();
        for (data, trailers, error) in [
            (&b"\0\0\0\0\x02\x08\x02"[..], OK, "the service is NOT_SERVING"),
            (b"\0\0\0\0\x00", OK, "the service is UNKNOWN"),
            (
                b"\0\0\0\0\x02\x08",
                OK,
                "the answer is no gRPC: 2 bytes were announced, 1 came",
            ),
            (
                b"\x01\0\0\0\x02\x08\x01",
                OK,
                "the answer is no gRPC: it is compressed, which was not asked for",
            ),
            (b"", OK, "the answer is no gRPC: it has no message"),
            (
                b"",
                &[("grpc-status", "12"), ("grpc-message", "unknown service")],
                "gRPC status 12: unknown service",
            ),
            (
                &[b'x'; MAX_ANSWER + 1],
                OK,
                "the answer is no gRPC: it has more than 4096 bytes",
            ),
        ] {
            assert_eq!(answered(data, trailers).await.unwrap_err().to_string(), error);
        }
    }
}
