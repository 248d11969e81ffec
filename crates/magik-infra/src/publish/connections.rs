//! The connections through a pod's published ports: who gets a place, and who gives one up.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id, JoinSet},
    time::Instant,
};

use super::{
    MAX_PUBLISHED_CONNECTIONS, MAX_WAITING, YIELD_AFTER,
    watched::{Activity, Watched},
};
use crate::life::reached;

/// Whose connections count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        })
    }
}

/// A client that was accepted.
#[derive(Debug)]
pub(super) struct Arrival<S> {
    pub(super) stream: S,
    pub(super) peer: Peer,
    /// The port of the pod that it wants.
    pub(super) port: u16,
}

struct Open {
    peer: Peer,
    activity: Arc<Activity>,
    task: AbortHandle,
}

type Connect<S> = Box<dyn Fn(Watched<S>, u16) -> BoxFuture<'static, ()> + Send + Sync>;

/// The connections of one pod.
pub(super) struct Connections<S> {
    connect: Connect<S>,
    open: HashMap<Id, Open>,
    tasks: JoinSet<()>,
    waiting: VecDeque<Arrival<S>>,
}

impl<S> fmt::Debug for Connections<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("open", &self.open.len())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl<S: Send + 'static> Connections<S> {
    /// `connect` carries one client's connection to its end.
    pub(super) fn new<F>(connect: impl Fn(Watched<S>, u16) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            connect: Box::new(move |client, port| Box::pin(connect(client, port))),
            open: HashMap::new(),
            tasks: JoinSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Serves those who arrive until nobody can any more.
    pub(super) async fn serve(mut self, mut arrivals: mpsc::Receiver<Arrival<S>>) {
        loop {
            let yields_at = loop {
                match self.next_to_open() {
                    Ok(arrival) => self.open(arrival),
                    Err(yields_at) => break yields_at,
                }
            };
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => self.arrived(arrival),
                    None => return,
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    };
                    self.open.remove(&id);
                }
                () = reached(yields_at) => {}
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival<S>) {
        self.waiting.push_back(arrival);
        if self.waiting.len() > MAX_WAITING {
            let waiting = count(self.waiting.iter().map(|arrival| arrival.peer));
            let most = waiting.values().copied().max();
            let is_refused = |arrival: &Arrival<S>| waiting.get(&arrival.peer).copied() == most;
            if let Some(last) = self.waiting.iter().rposition(is_refused) {
                self.waiting.remove(last);
            }
        }
    }

    fn open(&mut self, arrival: Arrival<S>) {
        let client = Watched::new(arrival.stream);
        let activity = client.activity().clone();
        let carried = (self.connect)(client, arrival.port);
        let watched = activity.clone();
        let task = self.tasks.spawn(async move {
            tokio::select! {
                () = carried => {}
                () = watched.timed_out() => {}
            }
        });
        let open = Open {
            peer: arrival.peer,
            activity,
            task,
        };
        self.open.insert(open.task.id(), open);
    }

    /// The one of those who wait that gets a place now; one that has to give it up has done so.
    /// Else when the next place is given up for who waits; `None`: nobody waits.
    fn next_to_open(&mut self) -> Result<Arrival<S>, Option<Instant>> {
        let held = count(self.open.values().map(|open| open.peer));
        let place = self.next_waiting(&held).ok_or(None)?;
        if self.open.len() >= MAX_PUBLISHED_CONNECTIONS {
            let peer = self.waiting.get(place).ok_or(None)?.peer;
            let open = self
                .open
                .values()
                .map(|o| (o.task.id(), o.peer, o.activity.last()));
            let (id, at) = gives_way(open, &held, peer).ok_or(None)?;
            if at.is_some_and(|at| at > Instant::now()) {
                return Err(at);
            }
            if let Some(open) = self.open.remove(&id) {
                open.task.abort();
            }
        }
        self.waiting.remove(place).ok_or(None)
    }

    /// The place of the first one that waits, of the peer that has least.
    fn next_waiting(&self, held: &HashMap<Peer, usize>) -> Option<usize> {
        let has = |peer| held.get(peer).copied().unwrap_or(0);
        let waiting = self.waiting.iter().enumerate();
        waiting
            .min_by_key(|(place, arrival)| (has(&arrival.peer), *place))
            .map(|(place, _)| place)
    }
}

/// Which connection gives its place to a newcomer, and from when on; `None` for at once.
///
/// It is one of the peer that has most of them. A newcomer who has less than that peer even with
/// this one takes it away; of equals, or of itself, only what is idle.
fn gives_way<K>(
    open: impl Iterator<Item = (K, Peer, Instant)>,
    held: &HashMap<Peer, usize>,
    newcomer: Peer,
) -> Option<(K, Option<Instant>)> {
    let most = held.values().copied().max()?;
    let own = held.get(&newcomer).copied().unwrap_or(0);
    let of_the_largest = open.filter(|(_, peer, _)| held.get(peer) == Some(&most));
    let (key, _, last) = of_the_largest.min_by_key(|(_, _, last)| *last)?;
    Some((key, (own + 1 >= most).then(|| last + YIELD_AFTER)))
}

fn count(peers: impl Iterator<Item = Peer>) -> HashMap<Peer, usize> {
    let mut counts = HashMap::new();
    for peer in peers {
        *counts.entry(peer).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests;
