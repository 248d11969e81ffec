//! What is asked of a container again and again, from its start to its end.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use super::handler::{HandlerError, Subject};
use crate::plan::{Handler, Lifecycle, Probe};

/// The first pause between early questions; each is twice as long as the one before.
const EARLY: Duration = Duration::from_millis(20);

/// What becomes known of a container that runs.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) container: String,
    /// In which of its runs.
    pub(super) run: u64,
    pub(super) news: News,
}

/// What that is.
#[derive(Debug)]
pub(super) enum News {
    /// Its hook was done, or has failed.
    PostStart(Result<(), HandlerError>),
    /// Its startup probe has succeeded, or has failed for good.
    Startup(Result<(), HandlerError>),
    /// Its readiness probe says something else than before.
    Readiness(Result<(), HandlerError>),
    /// Its liveness probe has failed.
    Unlive(HandlerError),
    /// What was to be done before it is asked to end has been done, or has taken too long.
    PreStop(Result<(), HandlerError>),
}

/// Tells of one container in one of its runs.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    pub(super) container: String,
    pub(super) run: u64,
    pub(super) told: mpsc::UnboundedSender<Told>,
}

impl Teller {
    fn tell(&self, news: News) {
        // Nobody listens any more once the pod is over.
        let _ = self.told.send(Told {
            container: self.container.clone(),
            run: self.run,
            news,
        });
    }
}

/// Does what a container wants done from its start on, until it is dropped.
pub(super) async fn attend(subject: Arc<Subject>, lifecycle: Lifecycle, teller: Teller) {
    let started = Instant::now();
    if let Some(hook) = &lifecycle.post_start {
        // As long as it takes: the kubelet sets no limit, and the container's end ends it.
        let done = subject.perform(hook, Duration::MAX).await;
        let failed = done.is_err();
        teller.tell(News::PostStart(done));
        if failed {
            return;
        }
    }
    if let Some(probe) = &lifecycle.startup {
        let passed = Asking::new(probe, started, true).verdict(&subject).await;
        let failed = passed.is_err();
        teller.tell(News::Startup(passed));
        if failed {
            return;
        }
    }
    let readiness = async {
        let Some(probe) = &lifecycle.readiness else { return };
        let (mut asking, mut ready) = (Asking::new(probe, started, true), false);
        loop {
            let verdict = asking.verdict(&subject).await;
            if verdict.is_ok() != ready {
                ready = !ready;
                teller.tell(News::Readiness(verdict));
            }
        }
    };
    let liveness = async {
        let Some(probe) = &lifecycle.liveness else { return };
        let mut asking = Asking::new(probe, started, false);
        loop {
            if let Err(error) = asking.verdict(&subject).await {
                return teller.tell(News::Unlive(error));
            }
        }
    };
    tokio::join!(readiness, liveness);
}

/// A probe at work.
struct Asking<'a> {
    probe: &'a Probe,
    timer: Interval,
    /// When it is asked, before its first period has passed: a bad answer does not count then.
    /// Programs need some milliseconds to listen, and nobody has to wait ten seconds for that.
    early: Option<Duration>,
    /// The last answer was good, and so many in a row were as it.
    last: Option<bool>,
    in_a_row: u32,
}

impl<'a> Asking<'a> {
    fn new(probe: &'a Probe, started: Instant, early: bool) -> Self {
        let first = started + Duration::from_secs(probe.initial_delay_s);
        let mut timer = interval_at(first, Duration::from_secs(probe.period_s.max(1)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            probe,
            timer,
            early: early.then_some(EARLY),
            last: None,
            in_a_row: 0,
        }
    }

    /// Asks until as many answers in a row are good, or bad, as its thresholds say.
    async fn verdict(&mut self, subject: &Subject) -> Result<(), HandlerError> {
        loop {
            self.timer.tick().await;
            let answer = self.ask(subject).await;
            let good = answer.is_ok();
            self.in_a_row = if self.last == Some(good) {
                self.in_a_row.saturating_add(1)
            } else {
                1
            };
            self.last = Some(good);
            let wanted = match good {
                true => self.probe.success_threshold,
                false => self.probe.failure_threshold,
            };
            if self.in_a_row >= wanted {
                return answer;
            }
        }
    }

    async fn ask(&mut self, subject: &Subject) -> Result<(), HandlerError> {
        let limit = Duration::from_secs(self.probe.timeout_s.max(1));
        let until = Instant::now() + self.timer.period();
        let mut answer = subject.perform(&self.probe.handler, limit).await;
        let mut wait = self.early.take();
        while let Some(pause) = wait.filter(|_| answer.is_err()) {
            let next = Instant::now() + pause;
            if next >= until {
                break;
            }
            sleep_until(next).await;
            answer = subject.perform(&self.probe.handler, limit).await;
            wait = Some(pause * 2);
        }
        answer
    }
}

/// Does what is to be done before a container is asked to end, for at most so long.
pub(super) async fn before_its_end(subject: Arc<Subject>, hook: Handler, limit: Duration, teller: Teller) {
    teller.tell(News::PreStop(subject.perform(&hook, limit).await));
}
