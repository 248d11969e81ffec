//! When to try again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::Problem;

/// The first pause. Each is three times the one before, plus up to its length at random, so that
/// rejected clients do not come back together.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How often something is tried again.
const ATTEMPTS: usize = 3;
/// The longest wait that a registry may ask for (`Retry-After`); longer ones end the pull.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The pauses before the attempts that are left.
#[derive(Debug)]
pub(crate) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(crate) fn new() -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(FIRST_PAUSE)
            .with_factor(3.0)
            .with_max_times(ATTEMPTS)
            .with_jitter();
        Self(pauses.build())
    }

    /// How long to wait after `problem`; `None` if it will not pass, or not soon.
    pub(super) fn after(&mut self, problem: &Problem) -> Option<Duration> {
        if !problem.is_transient() {
            return None;
        }
        let pause = self.0.next()?;
        match problem {
            Problem::Status {
                retry_after: Some(asked),
                ..
            } => (*asked <= MAX_RETRY_AFTER).then(|| pause.max(*asked)),
            _ => Some(pause),
        }
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
pub(super) fn asked_for(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = date.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, seconds: Option<u64>) -> Problem {
        Problem::Status {
            what: "x".into(),
            status,
            message: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::new();
        for n in 0..3_u32 {
            let least = FIRST_PAUSE * 3_u32.pow(n);
            let pause = pauses.after(&status(503, None)).unwrap();
            assert!(pause >= least && pause <= least * 2, "{n}: {pause:?}");
        }
        assert_eq!(pauses.after(&status(503, None)), None);
        assert_eq!(Pauses::new().after(&status(404, None)), None);
    }

    #[test]
    fn a_registry_is_waited_for_as_long_as_it_asks_but_not_for_ever() {
        assert!(Pauses::new().after(&status(429, Some(7))).unwrap() >= Duration::from_secs(7));
        assert_eq!(Pauses::new().after(&status(429, Some(61))), None);
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            asked_for(&headers)
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(asked("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > MAX_RETRY_AFTER);
        assert_eq!(asked("soon"), None);
    }
}
