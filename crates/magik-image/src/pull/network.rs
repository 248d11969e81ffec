//! The places that an image may be at, one after the other.

use std::sync::atomic::AtomicBool;

use super::{PARTIAL_AGE, Progress, PullOptions, fetch};
use crate::{
    Error, Image, ImageStore, Reference, Result,
    background::blocking,
    platform::Platform,
    registry::{Deadline, Operation, Problem},
};

impl ImageStore {
    pub(super) async fn pull_anew(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image> {
        // Held until the image has its name: no collector takes a blob that was found or is about to be published.
        let cas = self.cas().clone();
        let _lease = blocking(move || {
            cas.expire_partial(PARTIAL_AGE)?;
            Ok(cas.lease()?)
        })
        .await?;
        let deadline = Deadline::after(options.connect.timeout);
        let mut endpoints = options
            .connect
            .endpoints(reference, Operation::Pull)
            .await?
            .into_iter();
        let mut resume = true;
        let Some(mut endpoint) = endpoints.next() else {
            return Err(Error::NotFound(reference.to_string()));
        };
        loop {
            let resumed = AtomicBool::new(false);
            let attempt = async {
                let connect = &options.connect;
                let connected = connect.connect(reference, &endpoint, deadline, Operation::Pull);
                let pull = fetch::Pull::new(self, connected.await?, platform, progress, options);
                let resume = resume.then_some(&resumed);
                pull.fetch(&endpoint.reference, reference, resume).await
            };
            let error = match attempt.await {
                Ok(fetched) => return fetched.publish(self, reference, progress).await,
                Err(error) => error,
            };
            if resumed.into_inner() && fetch::may_be_the_beginning(&error) {
                // What an earlier pull, or another connection, had left may be what is wrong: once without it.
                tracing::warn!(image = %reference, %error, "what had arrived before is thrown away");
                resume = false;
                continue;
            }
            match (&error, endpoints.next()) {
                (Error::Registry(_) | Error::Auth(_), Some(next)) if !is_final(&error) => {
                    tracing::warn!(image = %reference, %error, next = %next.reference, "trying the next place");
                    endpoint = next;
                    resume = true;
                }
                _ => return Err(error),
            }
        }
    }
}

/// Whether another place would not help: time is up.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Registry(e) if matches!(e.problem, Problem::TimedOut { .. }))
}
