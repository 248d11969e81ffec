//! `exec`, `attach` and `port-forward` as `kubectl` sees them: a URL, and a WebSocket whose messages start with the number
//! of a channel (`v4.channel.k8s.io`).

use std::{net::TcpStream, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use magikrun_test_cri::api;
use magikrun_tests::dropin::{Check, eventually};
use tungstenite::{Message, WebSocket, client::IntoClientRequest as _};

use crate::node::{Node, SLEEPER};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A stream of several channels.
struct Stream(WebSocket<TcpStream>);

impl Stream {
    fn open(url: &str) -> Result<Self> {
        let mut request = url.replacen("http:", "ws:", 1).into_client_request()?;
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse()?);
        let address = request.uri().authority().context("no address")?.to_string();
        let socket = TcpStream::connect(&address).with_context(|| address)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (socket, _) = tungstenite::client(request, socket).context("no WebSocket")?;
        Ok(Self(socket))
    }

    fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let message = [&[channel], data].concat();
        Ok(self.0.send(Message::binary(message))?)
    }

    /// The next piece of data, or `None` at the end.
    fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            match self.0.read() {
                Ok(Message::Binary(data)) if !data.is_empty() => {
                    return Ok(Some((data[0], data[1..].to_vec())));
                }
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(None),
                Ok(_) => {}
                Err(error) => bail!("{error}"),
            }
        }
    }

    /// Reads a channel until what came contains `text`.
    fn until(&mut self, channel: u8, text: &str) -> Result<String> {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(text) {
            match self.next()? {
                Some((from, data)) if from == channel => said.extend(data),
                Some(_) => {}
                None => bail!(
                    "it ended with {:?}, without {text:?}",
                    String::from_utf8_lossy(&said)
                ),
            }
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// The exit code, which comes at the end on a channel of its own, and what came on standard output before.
    fn end(&mut self) -> Result<(i64, String)> {
        let mut said = Vec::new();
        loop {
            match self.next()? {
                Some((STDOUT, data)) => said.extend(data),
                Some((ERROR, data)) if !data.is_empty() => {
                    let status: serde_json::Value = serde_json::from_slice(&data)?;
                    let causes = status["details"]["causes"].as_array();
                    let code = causes.and_then(|c| c.iter().find(|c| c["reason"] == "ExitCode"));
                    let code = match code {
                        Some(cause) => cause["message"].as_str().context("no code")?.parse()?,
                        None if status["status"] == "Success" => 0,
                        None => bail!("{status}"),
                    };
                    return Ok((code, String::from_utf8_lossy(&said).replace('\r', "")));
                }
                Some(_) => {}
                None => bail!("it ended without a status"),
            }
        }
    }
}

fn exec(node: &Node, container: &str, tty: bool, command: &[&str]) -> Result<Stream> {
    let url = node.call(api::ExecRequest {
        container_id: container.to_owned(),
        cmd: command.iter().map(|s| (*s).to_owned()).collect(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    })?;
    Stream::open(&url.url)
}

pub(crate) const CHECKS: &[Check<Node>] = &[
    ("exec streams input, output and the exit code", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |_| {})?;
        let script = "read a; echo got $a; echo other >&2; exit 9";
        let mut stream = exec(n, &container.id, false, &["sh", "-c", script])?;
        stream.send(STDIN, b"typed\n")?;
        let end = stream.end()?;
        ensure!(end == (9, "got typed\n".to_owned()), "{end:?}");
        Ok(())
    }),
    ("exec on a terminal that is resized", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |_| {})?;
        let mut stream = exec(n, &container.id, true, &["sh"])?;
        stream.send(RESIZE, br#"{"Width":123,"Height":45}"#)?;
        stream.send(STDIN, b"tty\n")?;
        stream.until(STDOUT, "/dev/pts/")?;
        // The new size comes on a channel of its own: neither before nor after the input.
        stream.send(
            STDIN,
            b"until stty size | grep '45 123'; do sleep 0.1; done; exit 4\n",
        )?;
        let (code, said) = stream.end()?;
        ensure!(code == 4 && said.contains("\n45 123\n"), "{code}: {said}");
        Ok(())
    }),
    ("exec of a missing program is an error that names it", |n| {
        let pod = n.pod()?;
        let container = pod.start(SLEEPER, |_| {})?;
        let mut stream = exec(n, &container.id, false, &["/nosuch"])?;
        let error = stream.end().err().context("it ran")?;
        ensure!(format!("{error:#}").contains("nosuch"), "{error:#}");
        Ok(())
    }),
    ("attach to a running container", |n| {
        let pod = n.pod()?;
        let script = "while read a; do echo got $a; done";
        let container = pod.start(script, |c| c.stdin = true)?;
        let url = n.call(api::AttachRequest {
            container_id: container.id.clone(),
            stdin: true,
            stdout: true,
            stderr: true,
            ..Default::default()
        })?;
        let mut stream = Stream::open(&url.url)?;
        stream.send(STDIN, b"one\n")?;
        stream.until(STDOUT, "got one\n")?;
        // What was attached hears of it before the log does.
        eventually("the log has it", || {
            container.stdout().is_ok_and(|log| log.contains("got one"))
        })
    }),
    ("attach to a terminal", |n| {
        let pod = n.pod()?;
        let container = pod.start("tty; while read a; do echo got $a; done", |c| {
            c.stdin = true;
            c.tty = true;
        })?;
        let url = n.call(api::AttachRequest {
            container_id: container.id.clone(),
            stdin: true,
            stdout: true,
            tty: true,
            ..Default::default()
        })?;
        let mut stream = Stream::open(&url.url)?;
        stream.send(STDIN, b"one\n")?;
        stream.until(STDOUT, "got one")?;
        ensure!(
            container.stdout()?.contains("/dev/pts/0"),
            "{:?}",
            container.stdout()
        );
        Ok(())
    }),
    ("port-forward", |n| {
        let pod = n.pod()?;
        let container = pod.start("nc -ll -p 8080 -e sh -c 'read a; echo answer to $a'", |_| {})?;
        magikrun_tests::dropin::eventually("it listens", || {
            container.exec("netstat -ltn | grep 8080").is_ok()
        })?;
        let url = n.call(api::PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: vec![8080],
        })?;
        let mut stream = Stream::open(&format!("{}?port=8080", url.url))?;
        // Channel 0 is the port's data, 1 its errors; each begins with the port's number.
        stream.send(0, b"hello\n")?;
        stream.until(0, "answer to hello\n").map(drop)
    }),
];
