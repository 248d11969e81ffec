//! One GET, of whose answer only the status matters.

use std::net::SocketAddr;

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};

use super::HandlerError;

/// The largest head of an answer that is read, in bytes.
const MAX_HEAD: u64 = 16 << 10;
/// The most answers that go before the one that counts (status 1xx).
const MAX_PRELIMINARY: usize = 8;
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
    let mut stream = BufReader::new(stream);
    for _ in 0..=MAX_PRELIMINARY {
        match status(&head(&mut stream).await?)? {
            100..200 => {}
            200..400 => return Ok(()),
            status => return Err(HandlerError::Status(status)),
        }
    }
    Err(no_http("it has too many preliminary answers"))
}

fn no_http(why: &str) -> HandlerError {
    HandlerError::NoHttp(why.to_owned())
}

/// Reads one head, to the empty line at its end. It is looked at once, in however small pieces it comes.
async fn head(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, HandlerError> {
    let mut stream = stream.take(MAX_HEAD);
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if stream.read_until(b'\n', &mut head).await? == 0 {
            return Err(no_http(match stream.limit() {
                0 => "its head is too large",
                _ => "it ends in its head",
            }));
        }
        if before == 0 && !head.starts_with(b"HTTP/") {
            return Err(no_http("it does not begin as one"));
        }
        if matches!(&head[before..], b"\n" | b"\r\n") {
            return Ok(head);
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

/// The status of a complete head.
fn status(head: &[u8]) -> Result<u16, HandlerError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(head);
    parsed.map_err(|e| no_http(&e.to_string()))?;
    response.code.ok_or_else(|| no_http("it has no status"))
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

    #[tokio::test]
    async fn reads_the_status_that_counts() {
        let early = "HTTP/1.1 100 Continue\r\n\r\n";
        let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(20 << 10));
        for (text, said) in [
            ("", "it ends in its head"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", "it ends in its head"),
            ("HTTP/1.1 204 No Content\r\n\r\n", ""),
            ("HTTP/1.1 200 OK\nA: b\n\nbody", ""),
            ("HTTP/1.0 503 No\r\n\r\nbody", "HTTP status 503"),
            (&format!("{early}{early}HTTP/1.1 200 OK\r\n\r\n"), ""),
            (&early.repeat(100), "it has too many preliminary answers"),
            ("SSH-2.0-x\r\n", "it does not begin as one"),
            ("HTTP/1.1 x\r\n\r\n", "invalid"),
            (&large, "its head is too large"),
        ] {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            ours.write_all(text.as_bytes()).await.unwrap();
            ours.shutdown().await.unwrap();
            let answer = get(theirs, ([127, 0, 0, 1], 80).into(), "/", &[]).await;
            match answer {
                Ok(()) => assert_eq!(said, "", "{text:.60}"),
                Err(e) => assert!(
                    !said.is_empty() && e.to_string().contains(said),
                    "{text:.60}: {e}"
                ),
            }
        }
    }
}
