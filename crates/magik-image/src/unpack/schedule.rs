//! Unpacking several layers at once.

use std::{
    num::NonZero,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

use crate::{Error, Result};

/// How far the layers of one image are.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    next: usize,
    done: Vec<bool>,
    failed: Option<Error>,
}

impl Progress {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every layer below that of `index` is in place.
    pub(super) fn wait_for_all_below(&self, index: usize) -> Result<()> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return Err(Error::Task("a layer below failed".to_owned()));
            }
            if state.done[..index].iter().all(|done| *done) {
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Calls `work` for 0 to `count` - 1, in threads; returns the first error.
///
/// Indices start in ascending order, and a call may wait only for lower ones. So the lowest
/// unfinished one is always being worked on, in all processes, and there is no deadlock.
pub(super) fn in_order(count: usize, work: impl Fn(usize, &Progress) -> Result<()> + Sync) -> Result<()> {
    let progress = Progress {
        state: Mutex::new(State {
            next: 0,
            done: vec![false; count],
            failed: None,
        }),
        changed: Condvar::new(),
    };
    let worker = || loop {
        let index = {
            let mut state = progress.lock();
            if state.failed.is_some() || state.next == count {
                return;
            }
            state.next += 1;
            state.next - 1
        };
        let result = work(index, &progress);
        let mut state = progress.lock();
        match result {
            Ok(()) => state.done[index] = true,
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
        progress.changed.notify_all();
    };
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(count);
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(worker);
        }
        worker();
    });
    let state = progress
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    state.failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_worked_on_once_and_may_wait_for_lower_ones() {
        let worked = Mutex::new(Vec::new());
        in_order(50, |index, progress| {
            progress.wait_for_all_below(index)?;
            worked.lock().unwrap().push(index);
            Ok(())
        })
        .unwrap();
        assert_eq!(worked.into_inner().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_failure_wakes_those_who_wait_for_it() {
        let result = in_order(10, |index, progress| match index {
            0 => Err(Error::NotFound("zero".to_owned())),
            _ => progress.wait_for_all_below(index),
        });
        assert!(matches!(result, Err(Error::NotFound(_))), "{result:?}");
    }
}
