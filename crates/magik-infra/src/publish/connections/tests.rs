use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex},
    time::{advance, sleep, timeout},
};

use super::*;
use crate::publish::{HALF_CLOSED_TIMEOUT, IDLE_TIMEOUT};

/// A pod whose program says `hello` to who connects, then answers each byte with itself.
struct Server {
    arrivals: mpsc::Sender<Arrival<DuplexStream>>,
}

impl Server {
    fn start() -> Self {
        let (arrivals, arrived) = mpsc::channel(1);
        let connections = Connections::new(|mut client: Watched<DuplexStream>, _| async move {
            let (mut pod, mut program) = duplex(64);
            let answering = async {
                program.write_all(b"hello").await.unwrap();
                let mut byte = [0];
                while program.read(&mut byte).await.is_ok_and(|n| n > 0) {
                    if program.write_all(&byte).await.is_err() {
                        break;
                    }
                }
                // It never closes its side by itself.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut pod) => {}
                () = answering => {}
            }
        });
        tokio::spawn(connections.serve(arrived));
        Self { arrivals }
    }

    async fn connect(&self, address: &str) -> DuplexStream {
        let (ours, stream) = duplex(64);
        let address: SocketAddr = format!("{address}:9").parse().unwrap();
        let arrival = Arrival {
            stream,
            peer: address.into(),
            port: 80,
        };
        self.arrivals.send(arrival).await.unwrap();
        ours
    }

    /// So many clients of one address, one after the other, all of which are served.
    async fn served(&self, address: &str, count: usize) -> Vec<DuplexStream> {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut client = self.connect(address).await;
            assert!(greeted(&mut client).await);
            all.push(client);
            advance(Duration::from_millis(1)).await;
        }
        all
    }
}

/// Whether a client is served without anything having to time out.
async fn greeted(client: &mut DuplexStream) -> bool {
    let mut hello = [0; 5];
    let read = client.read_exact(&mut hello);
    matches!(timeout(YIELD_AFTER / 2, read).await, Ok(Ok(_)))
}

async fn echoed(client: &mut DuplexStream) -> bool {
    let mut byte = [0];
    client.write_all(b"x").await.is_ok() && matches!(client.read(&mut byte).await, Ok(1))
}

async fn is_closed(client: &mut DuplexStream) -> bool {
    let read = timeout(Duration::from_millis(1), client.read_u8());
    matches!(read.await, Ok(Err(_)))
}

#[tokio::test(start_paused = true)]
async fn idle_connections_give_their_place_to_the_same_peer() {
    let server = Server::start();
    let mut idle = server.served("192.0.2.1", MAX_PUBLISHED_CONNECTIONS).await;
    advance(YIELD_AFTER).await;
    assert!(echoed(&mut idle[0]).await, "all are served");
    let mut late = server.connect("192.0.2.1").await;
    assert!(greeted(&mut late).await);
    assert!(is_closed(&mut idle[1]).await, "the one that was idle for longest");
    assert!(!is_closed(&mut idle[0]).await, "it has just been used");
    assert!(!is_closed(&mut idle[2]).await, "one place was needed");
}

#[tokio::test(start_paused = true)]
async fn busy_connections_of_the_same_peer_keep_their_places() {
    let server = Server::start();
    let mut busy = server.served("192.0.2.1", MAX_PUBLISHED_CONNECTIONS).await;
    let mut late = server.connect("192.0.2.1").await;
    for _ in 0..10 {
        for client in &mut busy {
            assert!(echoed(client).await);
        }
        advance(YIELD_AFTER / 2).await;
    }
    assert!(!is_closed(&mut late).await, "it waits");
    drop(busy.pop());
    assert!(greeted(&mut late).await, "one has ended");
}

#[tokio::test(start_paused = true)]
async fn one_peer_keeps_no_other_out_however_busy_it_is() {
    let server = Server::start();
    let mut busy = server.served("192.0.2.1", MAX_PUBLISHED_CONNECTIONS).await;
    // More than may wait.
    let mut more = Vec::new();
    for _ in 0..2 * MAX_WAITING {
        more.push(server.connect("192.0.2.1").await);
    }
    for client in &mut busy {
        assert!(echoed(client).await);
    }
    let mut others = server.served("192.0.2.2", 10).await;
    let mut closed = 0;
    for client in &mut busy {
        closed += usize::from(is_closed(client).await);
    }
    assert_eq!(closed, 10, "as many as were needed");
    for client in &mut others {
        assert!(echoed(client).await);
    }
}

#[tokio::test(start_paused = true)]
async fn two_peers_share_all_places_by_halves() {
    let server = Server::start();
    let _one = server.served("192.0.2.1", MAX_PUBLISHED_CONNECTIONS).await;
    let half = MAX_PUBLISHED_CONNECTIONS / 2;
    let mut two = server.served("192.0.2.2", half).await;
    let mut more = server.connect("192.0.2.2").await;
    assert!(!greeted(&mut more).await, "nothing is idle for long enough");
    for client in &mut two {
        assert!(echoed(client).await);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_a_full_queue_is_refused_by_the_peer_with_most() {
    let server = Server::start();
    let _busy = server.served("192.0.2.1", MAX_PUBLISHED_CONNECTIONS).await;
    let mut waiting = Vec::new();
    for _ in 0..=MAX_WAITING {
        waiting.push(server.connect("192.0.2.1").await);
    }
    sleep(YIELD_AFTER / 4).await;
    assert!(is_closed(&mut waiting[MAX_WAITING]).await, "the last one");
    assert!(!is_closed(&mut waiting[0]).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_carries_nothing_is_closed() {
    let server = Server::start();
    let mut idle = server.served("192.0.2.1", 2).await;
    for _ in 0..3 {
        sleep(IDLE_TIMEOUT - Duration::from_secs(10)).await;
        assert!(echoed(&mut idle[0]).await, "it is used");
    }
    assert!(is_closed(&mut idle[1]).await);
    sleep(IDLE_TIMEOUT + Duration::from_secs(1)).await;
    assert!(is_closed(&mut idle[0]).await);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_is_served_but_not_for_ever() {
    let server = Server::start();
    let mut client = server.served("192.0.2.1", 1).await.remove(0);
    client.write_all(b"x").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x', "the answer still comes");
    sleep(HALF_CLOSED_TIMEOUT - Duration::from_secs(10)).await;
    assert!(!is_closed(&mut client).await);
    sleep(Duration::from_secs(20)).await;
    assert!(is_closed(&mut client).await);
}

#[test]
fn a_peer_is_a_host_or_a_network() {
    let peer = |address: &str| Peer::from(address.parse::<SocketAddr>().unwrap());
    assert_eq!(peer("192.0.2.1:1"), peer("192.0.2.1:2"));
    assert_ne!(peer("192.0.2.1:1"), peer("192.0.2.2:1"));
    assert_eq!(peer("[::ffff:192.0.2.1]:1"), peer("192.0.2.1:1"));
    assert_eq!(peer("[2001:db8::1]:1"), peer("[2001:db8::ffff:1]:1"));
    assert_ne!(peer("[2001:db8::1]:1"), peer("[2001:db8:0:1::1]:1"));
}
