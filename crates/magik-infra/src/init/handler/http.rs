//! One GET, of whose answer only the status matters.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::HandlerError;

/// The largest head of an answer that is read, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// The most headers of an answer.
const MAX_HEADERS: usize = 100;

/// A redirection counts as an answer that is good, and is not followed.
pub(super) async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), HandlerError> {
    stream
        .write_all(request(address, path, headers).as_bytes())
        .await?;
    stream.flush().await?;
    let mut head = Vec::new();
    loop {
        if let Some(status) = status(&head)? {
            return match status {
                200..400 => Ok(()),
                status => Err(HandlerError::Status(status)),
            };
        }
        if head.len() >= MAX_HEAD {
            return Err(HandlerError::NoHttp(format!(
                "its head has more than {MAX_HEAD} bytes"
            )));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(HandlerError::NoHttp("it ends in its head".to_owned()));
        }
    }
}

/// Headers of the same name as one of ours take its place.
fn request(address: SocketAddr, path: &str, headers: &[(String, String)]) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let address = address.to_string();
    let own = [
        ("Host", address.as_str()),
        (
            "User-Agent",
            concat!("magikrun-probe/", env!("CARGO_PKG_VERSION")),
        ),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ];
    let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let own = own.into_iter().filter(|(name, _)| !given(name));
    let all = own.chain(
        headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let lines: String = all.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {slash}{path} HTTP/1.1\r\n{lines}\r\n")
}

/// The status of a complete head that is not a preliminary one; `None`: there is more to come.
fn status(mut head: &[u8]) -> Result<Option<u16>, HandlerError> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response
            .parse(head)
            .map_err(|e| HandlerError::NoHttp(e.to_string()))?;
        let httparse::Status::Complete(length) = parsed else {
            return Ok(None);
        };
        match response.code {
            Some(100..200) => head = &head[length..],
            code => return Ok(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_as_it_is_told_to() {
        let headers = [("X-A", "b"), ("host", "example.org")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let text = request(([127, 0, 0, 1], 80).into(), "health?x=1", &headers);
        assert!(text.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("X-A: b\r\nhost: example.org\r\n\r\n"), "{text}");
        assert!(!text.contains("Host: "), "{text}");
        assert!(request("[::1]:80".parse().unwrap(), "/", &[]).contains("Host: [::1]:80\r\n"));
    }

    #[test]
    fn reads_the_status_that_counts() {
        let of = |text: &str| status(text.as_bytes());
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of("HTTP/1.1 200 OK\r\nA: b\r\n").unwrap(), None);
        assert_eq!(of("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), Some(204));
        assert_eq!(of("HTTP/1.0 503 No\r\n\r\nbody").unwrap(), Some(503));
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(of(early).unwrap(), Some(200));
        assert!(matches!(of("SSH-2.0-x\r\n\r\n"), Err(HandlerError::NoHttp(_))));
    }
}
