//! A small HTTP server on loopback that does as a test says, however wrong.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    /// Empty if it came in chunks.
    pub(crate) body: Vec<u8>,
}

/// What the server does about it.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A proper answer; `content-length` is added unless given.
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Nothing, with the connection open.
    Stall,
    /// A promise of `length` bytes, these, and then nothing.
    StallAfter { length: u64, body: Vec<u8> },
    /// The same, and then the connection ends.
    CutAfter { length: u64, body: Vec<u8> },
    /// An answer that promises `length` bytes, has these, and ends.
    Cut {
        status: u16,
        headers: Vec<(&'static str, String)>,
        length: usize,
        body: Vec<u8>,
    },
    /// A body in chunks that has no end.
    Endless { status: u16 },
    /// A body in chunks, one byte now and then, without end.
    Drip { every: Duration },
    /// These bytes and the end of the connection.
    Raw(Vec<u8>),
}

impl Reply {
    pub(crate) fn ok(media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer {
            status: 200,
            headers: vec![("content-type", media_type.to_owned())],
            body: body.into(),
        }
    }

    pub(crate) fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer {
            status,
            headers: vec![],
            body: body.into(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

/// The running server; it ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts it. `/v2/` answers 200 without asking `reply`.
    pub(crate) async fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with_ping(move |request| match &*request.path {
            "/v2/" => Reply::status(200, "{}"),
            _ => reply(request),
        })
        .await
    }

    /// The same, and `reply` is asked about `/v2/`, too.
    pub(crate) async fn start_with_ping(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (reply, seen) = (Arc::new(reply), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, seen) = (Arc::clone(&reply), Arc::clone(&seen));
                tokio::spawn(async move {
                    // The client hangs up when it has seen enough.
                    let _ = serve(stream, &*reply, &seen).await;
                });
            }
        });
        Self { address, requests }
    }

    /// Every request so far, but for `/v2/`.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// Starts one on a thread of its own, which lasts as long as the process, and returns its address.
pub(crate) fn in_background(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> String {
    let (started, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::start(reply).await;
            started.send(server.address.clone()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    address.recv().unwrap()
}

async fn serve(
    stream: TcpStream,
    reply: &(dyn Fn(&Request) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(request) = read_request(&mut stream).await? else {
            return Ok(());
        };
        if request.path != "/v2/" {
            seen.lock().unwrap().push(request.clone());
        }
        write(&mut stream, &reply(&request)).await?;
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or("").to_owned(),
        words.next().unwrap_or("").to_owned(),
    );
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method,
        path,
        headers,
        body,
    }))
}

async fn write(stream: &mut BufReader<TcpStream>, reply: &Reply) -> std::io::Result<()> {
    let forever = || std::future::pending::<std::io::Result<()>>();
    match reply {
        Reply::Answer {
            status,
            headers,
            body,
        } => {
            let mut head = format!("HTTP/1.1 {status} X\r\n");
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            if !headers.iter().any(|(name, _)| *name == "content-length") {
                head += &format!("content-length: {}\r\n", body.len());
            }
            stream.write_all(format!("{head}\r\n").as_bytes()).await?;
            stream.write_all(body).await?;
        }
        Reply::Stall => return forever().await,
        Reply::StallAfter { length, body } | Reply::CutAfter { length, body } => {
            stream
                .write_all(format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n").as_bytes())
                .await?;
            stream.write_all(body).await?;
            stream.flush().await?;
            if matches!(reply, Reply::StallAfter { .. }) {
                return forever().await;
            }
            stream.shutdown().await?;
        }
        Reply::Cut {
            status,
            headers,
            length,
            body,
        } => {
            let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n");
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            stream.write_all(format!("{head}\r\n").as_bytes()).await?;
            stream.write_all(body).await?;
            stream.flush().await?;
            stream.shutdown().await?;
        }
        Reply::Endless { status } => {
            let head = format!("HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Reply::Drip { every } => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            loop {
                stream.write_all(b"1\r\nx\r\n").await?;
                stream.flush().await?;
                tokio::time::sleep(*every).await;
            }
        }
        Reply::Raw(bytes) => {
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
        }
    }
    stream.flush().await
}
