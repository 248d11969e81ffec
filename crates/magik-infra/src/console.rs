//! The streams of a container that runs, for those who attach to it.
//!
//! Its output goes to its log in any case. Who attaches gets it, too, from then on; a container that
//! has input or a terminal keeps a little of what nobody was there to see. Who takes nothing holds the
//! container up for a while, as it does with every other runtime, and is left behind then.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use magik_oci::Exit;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, mpsc, watch},
    time::timeout,
};

use crate::{
    logs::{Listener, LogStream},
    plan::ConsolePlan,
    streams::{Input, resize},
};

/// How many may be attached to a container at a time.
pub(crate) const MAX_ATTACHED: usize = 8;
/// How many bytes may wait for one of them before the container waits.
const MAX_WAITING: usize = 256 << 10;
/// How many may wait once the container has ended and nobody waits any more.
const MAX_LEFT: usize = 4 << 20;
/// How long the container waits for one of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many bytes are kept for the first who attaches.
const MAX_EARLY: usize = 64 << 10;

/// The pieces that are kept for the first who attaches grow to so many bytes.
const MAX_PIECE: usize = 4 << 10;
/// What a piece takes beside its bytes, about.
const PIECE_COST: usize = 64;

/// What a container has written, at once.
pub(crate) type Piece = (LogStream, Vec<u8>);

/// The streams of one run of a container.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) plan: ConsolePlan,
    /// Where input goes; `None` once it was closed.
    input: AsyncMutex<Option<Input>>,
    /// The terminal, which has a size.
    terminal: Option<OwnedFd>,
    output: Mutex<Outputs>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug, Default)]
struct Outputs {
    watchers: Vec<Watcher>,
    /// What was written before anybody has attached; `None`: somebody has, or nothing is kept.
    early: Option<Early>,
}

/// The end of what was written so far, however small the pieces were.
#[derive(Debug, Default)]
struct Early {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Early {
    fn push(&mut self, stream: LogStream, bytes: &[u8]) {
        self.bytes += bytes.len();
        match self.pieces.back_mut() {
            Some((last, piece)) if *last == stream && piece.len() < MAX_PIECE => {
                piece.extend_from_slice(bytes);
            }
            _ => self.pieces.push_back((stream, bytes.to_vec())),
        }
        while self.bytes > MAX_EARLY || self.pieces.len() > MAX_EARLY / MAX_PIECE * 2 {
            let Some((_, first)) = self.pieces.pop_front() else {
                break;
            };
            self.bytes -= first.len();
        }
    }
}

/// Where the output goes of one who is attached.
#[derive(Debug, Clone)]
struct Watcher {
    sender: mpsc::UnboundedSender<Piece>,
    waiting: Arc<Waiting>,
}

/// How much waits to be taken.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    taken: Notify,
}

/// The output of a container, as it comes.
#[derive(Debug)]
pub(crate) struct Attached {
    pieces: mpsc::UnboundedReceiver<Piece>,
    waiting: Arc<Waiting>,
}

impl Attached {
    /// What comes next; `None`: no more.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        let piece = self.pieces.recv().await?;
        self.waiting
            .bytes
            .fetch_sub(piece.1.len() + PIECE_COST, Ordering::Relaxed);
        self.waiting.taken.notify_one();
        Some(piece)
    }
}

impl Console {
    pub(crate) fn new(plan: ConsolePlan, input: Input) -> Self {
        let terminal = input.terminal();
        let keeps = plan.stdin || plan.tty;
        Self {
            plan,
            input: AsyncMutex::new(plan.stdin.then_some(input)),
            terminal,
            output: Mutex::new(Outputs {
                watchers: Vec::new(),
                early: keeps.then(Early::default),
            }),
            exit: watch::Sender::new(None),
        }
    }

    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches somebody, who is told what nobody has seen yet if they ask for it. `None`: too many are.
    pub(crate) fn attach(&self, early: bool) -> Option<Attached> {
        let mut outputs = self.outputs();
        outputs.watchers.retain(|watcher| !watcher.sender.is_closed());
        if outputs.watchers.len() >= MAX_ATTACHED {
            return None;
        }
        let (sender, pieces) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let watcher = Watcher {
            sender,
            waiting: waiting.clone(),
        };
        let missed = outputs.early.take().filter(|_| early);
        for piece in missed.into_iter().flat_map(|early| early.pieces) {
            watcher.send(piece);
        }
        // One that has ended says nothing more.
        if self.exit.borrow().is_none() {
            outputs.watchers.push(watcher);
        }
        Some(Attached { pieces, waiting })
    }

    /// Writes to the container's input; what it does not take is waited for.
    pub(crate) async fn write(&self, bytes: &[u8]) {
        if let Some(input) = &mut *self.input.lock().await {
            input.write(bytes).await;
        }
    }

    /// Its input has ended, for good.
    pub(crate) async fn close_input(&self) {
        if let Some(mut input) = self.input.lock().await.take() {
            input.close().await;
        }
    }

    /// Whether it has input that somebody can write to.
    pub(crate) async fn takes_input(&self) -> bool {
        self.input.lock().await.is_some()
    }

    /// Its terminal, if it has one, has another size.
    pub(crate) fn resize(&self, rows: u32, columns: u32) {
        if let Some(terminal) = &self.terminal {
            resize(terminal, rows, columns);
        }
    }

    /// The container has ended, and all that it wrote was told.
    pub(crate) fn ended(&self, exit: Exit) {
        self.exit.send_replace(Some(exit));
        self.outputs().watchers.clear();
        if let Ok(mut input) = self.input.try_lock() {
            *input = None;
        }
    }

    /// How the container has ended; `None`: it has not.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }
}

impl Listener for Console {
    fn wrote(&self, stream: LogStream, bytes: &[u8]) {
        let mut outputs = self.outputs();
        let takes = |watcher: &Watcher| watcher.waiting.bytes.load(Ordering::Relaxed) < MAX_LEFT;
        outputs
            .watchers
            .retain(|watcher| takes(watcher) && watcher.send((stream, bytes.to_vec())));
        if let Some(early) = &mut outputs.early {
            early.push(stream, bytes);
        }
    }

    fn is_full(&self) -> bool {
        self.outputs().watchers.iter().any(Watcher::is_full)
    }

    fn taken(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let full = self.outputs().watchers.iter().find(|w| w.is_full()).cloned();
                let Some(full) = full else { return };
                let taken = async {
                    tokio::select! {
                        () = full.waiting.taken.notified() => {}
                        () = full.sender.closed() => {}
                    }
                };
                if timeout(PATIENCE, taken).await.is_err() || full.sender.is_closed() {
                    let same = |other: &Watcher| other.sender.same_channel(&full.sender);
                    self.outputs().watchers.retain(|other| !same(other));
                }
            }
        })
    }
}

impl Watcher {
    fn is_full(&self) -> bool {
        self.waiting.bytes.load(Ordering::Relaxed) >= MAX_WAITING
    }

    fn send(&self, piece: Piece) -> bool {
        self.waiting
            .bytes
            .fetch_add(piece.1.len() + PIECE_COST, Ordering::Relaxed);
        self.sender.send(piece).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(stdin: bool) -> (Console, tokio::net::unix::pipe::Receiver) {
        let plan = ConsolePlan {
            stdin,
            ..ConsolePlan::default()
        };
        let (sender, receiver) = tokio::net::unix::pipe::pipe().unwrap();
        (Console::new(plan, Input::of_pipe(sender)), receiver)
    }

    #[tokio::test]
    async fn who_attaches_is_told_what_comes_and_the_first_what_was_missed() {
        let (console, _input) = console(true);
        console.wrote(LogStream::Stdout, b"early");
        let mut first = console.attach(true).unwrap();
        let mut second = console.attach(true).unwrap();
        console.wrote(LogStream::Stderr, b"late");
        console.ended(Exit::exited(3));
        let late = || (LogStream::Stderr, b"late".to_vec());
        assert_eq!(first.next().await, Some((LogStream::Stdout, b"early".to_vec())));
        assert_eq!(first.next().await, Some(late()));
        assert_eq!(second.next().await, Some(late()));
        assert_eq!((first.next().await, second.next().await), (None, None));
        assert_eq!(console.exit(), Some(Exit::exited(3)));
        assert_eq!(console.attach(true).unwrap().next().await, None);
    }

    #[tokio::test]
    async fn only_so_much_is_kept_for_the_first() {
        let (with, _input) = console(true);
        let (without, _other) = console(false);
        for _ in 0..100 << 10 {
            with.wrote(LogStream::Stdout, b"x");
            without.wrote(LogStream::Stdout, b"x");
        }
        let mut attached = with.attach(true).unwrap();
        let mut other = without.attach(true).unwrap();
        with.ended(Exit::exited(0));
        without.ended(Exit::exited(0));
        let (mut pieces, mut bytes) = (0, 0);
        while let Some((_, piece)) = attached.next().await {
            pieces += 1;
            bytes += piece.len();
        }
        assert!(
            (60 << 10..=MAX_EARLY).contains(&bytes) && pieces <= 32,
            "{bytes} in {pieces}"
        );
        assert_eq!(other.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_nothing_is_left_behind() {
        let (console, _input) = console(false);
        let mut slow = console.attach(false).unwrap();
        let gone = console.attach(false).unwrap();
        drop(gone);
        console.wrote(LogStream::Stdout, &vec![0; MAX_WAITING]);
        // Who is gone is not waited for.
        console.taken().await;
        console.wrote(LogStream::Stdout, b"unheard");
        assert_eq!(slow.next().await.map(|(_, bytes)| bytes.len()), Some(MAX_WAITING));
        assert_eq!(slow.next().await, None);
        let all: Vec<_> = (0..MAX_ATTACHED)
            .map(|_| console.attach(false).unwrap())
            .collect();
        assert!(console.attach(false).is_none());
        drop(all);
        assert!(console.attach(false).is_some());
    }
}
