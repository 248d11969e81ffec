//! The host's side of the guest's connections.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Mutex, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::{Hello, HelloError, Kind, NONCE, Welcome};

/// How many connections may be about to say hello.
const GREETING: usize = 8;
/// How long a hello may take.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How many spare connections are kept; an honest guest has one.
const SPARE: usize = 4;
/// How long to wait when accepting fails, before trying again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a guest's connections arrive. It takes those that say hello with the right nonce, a bounded number of them, and
/// hangs up on all others.
#[derive(Debug)]
pub struct GuestListener {
    launch: Mutex<mpsc::Receiver<Result<UnixStream, HelloError>>>,
    spare: Mutex<mpsc::Receiver<UnixStream>>,
    accepting: JoinHandle<()>,
}

/// Where connections go once they have said hello.
#[derive(Debug, Clone)]
struct Ways {
    nonce: [u8; NONCE],
    launch: mpsc::Sender<Result<UnixStream, HelloError>>,
    spare: mpsc::Sender<UnixStream>,
}

impl GuestListener {
    /// Takes connections in the background, until it is dropped. Needs a tokio runtime.
    #[must_use]
    pub fn open(listener: UnixListener, nonce: [u8; NONCE]) -> Self {
        let (launch, launched) = mpsc::channel(1);
        let (spare, spares) = mpsc::channel(SPARE);
        let ways = Ways { nonce, launch, spare };
        Self {
            launch: Mutex::new(launched),
            spare: Mutex::new(spares),
            accepting: tokio::spawn(accept(listener, ways)),
        }
    }

    /// Waits for the guest's launch connection.
    ///
    /// # Errors
    /// What came first was no hello, or of another version.
    pub async fn launch(&self) -> Result<UnixStream, HelloError> {
        loop {
            let stream = self.launch.lock().await.recv().await;
            let stream = stream.unwrap_or(Err(HelloError::Malformed))?;
            if let Some(stream) = welcome(stream).await {
                return Ok(stream);
            }
        }
    }

    /// Waits for another connection to the guest.
    pub async fn connection(&self) -> Option<UnixStream> {
        loop {
            let stream = self.spare.lock().await.recv().await?;
            // One that the guest has closed meanwhile is as good as none.
            if let Some(stream) = welcome(stream).await {
                return Some(stream);
            }
        }
    }
}

impl Drop for GuestListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Takes a connection into use; `None`: the guest has closed it.
async fn welcome(mut stream: UnixStream) -> Option<UnixStream> {
    let welcome = Welcome {
        now: Timestamp::now(),
    };
    stream.write_all(&welcome.encode()).await.ok()?;
    Some(stream)
}

async fn accept(listener: UnixListener, ways: Ways) {
    let places = Arc::new(Semaphore::new(GREETING));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let ways = ways.clone();
                tokio::spawn(async move {
                    let _ = timeout(HELLO_TIME, greet(stream, ways)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the guest");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn greet(mut stream: UnixStream, ways: Ways) {
    let mut hello = [0; Hello::LEN];
    if stream.read_exact(&mut hello).await.is_err() {
        return;
    }
    let kind = Hello::decode(&hello, &ways.nonce);
    // Neither waits: what an honest guest sends there is room for.
    let kept = match kind {
        Ok(Kind::Launch) => ways.launch.try_send(Ok(stream)).is_ok(),
        Ok(Kind::Control) => ways.spare.try_send(stream).is_ok(),
        Err(error) => {
            tracing::warn!(%error, "a connection of the guest was refused");
            ways.launch.try_send(Err(error)).is_ok()
        }
    };
    if !kept {
        tracing::warn!("the guest has more connections than it was asked for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: [u8; NONCE] = [7; NONCE];

    fn listener() -> (tempfile::TempDir, GuestListener, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guests");
        let guests = UnixListener::bind(&path).unwrap();
        (dir, GuestListener::open(guests, RIGHT), path)
    }

    async fn dial(path: &std::path::Path, kind: Kind, nonce: [u8; NONCE]) -> UnixStream {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(&Hello { kind, nonce }.encode()).await.unwrap();
        stream
    }

    async fn is_closed(mut stream: UnixStream) -> bool {
        let mut byte = [0];
        timeout(Duration::from_secs(20), stream.read(&mut byte))
            .await
            .is_ok_and(|read| matches!(read, Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn a_guest_that_says_hello_is_welcome() {
        let (_dir, guests, path) = listener();
        let mut guest = dial(&path, Kind::Launch, RIGHT).await;
        let mut host = guests.launch().await.unwrap();
        let mut welcome = [0; Welcome::LEN];
        guest.read_exact(&mut welcome).await.unwrap();
        let age = Timestamp::now().duration_since(Welcome::decode(&welcome).unwrap().now);
        assert!(age.as_secs() < 60, "{age:?}");
        host.write_all(b"x").await.unwrap();
        let mut byte = [0];
        guest.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
        // Spares are used in any number, one after the other; closed ones are passed over.
        drop(dial(&path, Kind::Control, RIGHT).await);
        for _ in 0..3 {
            let _spare = dial(&path, Kind::Control, RIGHT).await;
            guests.connection().await.unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_does_not_know_the_nonce_is_hung_up_on() {
        let (_dir, guests, path) = listener();
        let guest = dial(&path, Kind::Launch, [8; NONCE]).await;
        assert_eq!(guests.launch().await.unwrap_err(), HelloError::Nonce);
        assert!(is_closed(guest).await);
        let mut silent = UnixStream::connect(&path).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        silent.write_all(&[0; Hello::LEN]).await.unwrap();
        assert_eq!(guests.launch().await.unwrap_err(), HelloError::Malformed);
        assert!(is_closed(silent).await);
    }

    #[tokio::test]
    async fn a_guest_that_floods_its_host_gets_no_more_than_its_places() {
        let (_dir, guests, path) = listener();
        let mut streams = Vec::new();
        for _ in 0..SPARE + 5 {
            streams.push(dial(&path, Kind::Control, RIGHT).await);
        }
        for late in streams.split_off(SPARE) {
            assert!(is_closed(late).await);
        }
        let _launch = dial(&path, Kind::Launch, RIGHT).await;
        guests.launch().await.unwrap();
    }
}
