//! Stopping and pausing what runs.
//!
//! A program is a future. A [`Gate`] polls it: it lets nothing through while the container is
//! paused, and drops the program to end it. A program that computes returns to its gate because
//! wasmtime yields: every [`YIELD_FUEL`] units of fuel, or else when the epoch moves, which happens
//! only to interrupt a program. No timer runs otherwise.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::sync::watch;
use wasmtime::Engine;

/// After how much fuel a program comes back to its gate: some milliseconds.
pub(crate) const YIELD_FUEL: u64 = 10_000_000;

/// Why a running program is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A signal that cannot be refused; its number is what the exit code tells.
    Killed(i32),
    /// Its wall-clock limit.
    Deadline,
}

/// The shared state that ends and pauses one container.
#[derive(Debug)]
pub(crate) struct Control {
    engine: &'static Engine,
    state: Mutex<State>,
    /// The first signal that asked the container to end of itself.
    asked: watch::Sender<Option<i32>>,
    verdict: watch::Sender<Option<Verdict>>,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    next: u64,
    waiting: HashMap<u64, Waker>,
}

impl Control {
    pub(crate) fn new(engine: &'static Engine) -> Self {
        Self {
            engine,
            state: Mutex::default(),
            asked: watch::Sender::new(None),
            verdict: watch::Sender::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that the container was asked to end; WASI cannot tell the program.
    pub(crate) fn ask(&self, signal: i32) {
        set_once(&self.asked, signal);
    }

    /// The signal that asked the container to end, as it comes.
    pub(crate) fn asked(&self) -> watch::Receiver<Option<i32>> {
        self.asked.subscribe()
    }

    /// Ends the container; the first verdict stands.
    pub(crate) fn end(&self, verdict: Verdict) {
        set_once(&self.verdict, verdict);
        self.call_back();
    }

    /// The verdict, as it comes.
    pub(crate) fn verdict(&self) -> watch::Receiver<Option<Verdict>> {
        self.verdict.subscribe()
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.state().paused = paused;
        self.call_back();
    }

    pub(crate) fn paused(&self) -> bool {
        self.state().paused
    }

    /// Makes every program of the container return to its gate.
    fn call_back(&self) {
        self.engine.increment_epoch();
        for (_, waker) in std::mem::take(&mut self.state().waiting) {
            waker.wake();
        }
    }
}

/// Sets and announces a value that has none; the first one stands.
pub(crate) fn set_once<T>(value: &watch::Sender<Option<T>>, new: T) {
    value.send_if_modified(|value| {
        let first = value.is_none();
        value.get_or_insert(new);
        first
    });
}

/// A program, polled as its container's [`Control`] allows.
pub(crate) struct Gate<F> {
    control: Arc<Control>,
    /// The yields of all programs of the container, and of this one.
    yields: Arc<AtomicU64>,
    own_yields: u64,
    place: u64,
    program: Pin<Box<F>>,
}

impl<F: Future> Gate<F> {
    /// `yields` counts the returns of running programs that waited for nothing.
    pub(crate) fn new(control: Arc<Control>, yields: Arc<AtomicU64>, program: F) -> Self {
        let place = {
            let mut state = control.state();
            state.next += 1;
            state.next
        };
        Self {
            control,
            yields,
            own_yields: 0,
            place,
            program: Box::pin(program),
        }
    }
}

impl<F: Future> Future for Gate<F> {
    type Output = Result<F::Output, Verdict>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        {
            let mut state = this.control.state();
            if let Some(verdict) = *this.control.verdict.borrow() {
                return Poll::Ready(Err(verdict));
            }
            state.waiting.insert(this.place, context.waker().clone());
            if state.paused {
                return Poll::Pending;
            }
        }
        let counting = Arc::new(YieldCounter {
            waker: context.waker().clone(),
            woken: AtomicBool::new(false),
        });
        let waker = Waker::from(counting.clone());
        match this.program.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => {
                if counting.woken.load(Ordering::Relaxed) {
                    this.own_yields += 1;
                    this.yields.fetch_add(1, Ordering::Relaxed);
                }
                Poll::Pending
            }
        }
    }
}

impl<F> Drop for Gate<F> {
    fn drop(&mut self) {
        self.control.state().waiting.remove(&self.place);
        self.yields.fetch_sub(self.own_yields, Ordering::Relaxed);
    }
}

/// A waker that knows whether it was woken while its future was polled, as wasmtime's yield does.
struct YieldCounter {
    waker: Waker,
    woken: AtomicBool,
}

impl Wake for YieldCounter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        self.waker.wake_by_ref();
    }
}
