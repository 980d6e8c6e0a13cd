//! What a worker thread does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::shared::{Outcome, Shared, Ticket};
use crate::data::example::{Example, Opened};
use crate::{Error, Result};

/// Makes examples until there is nothing more to do.
pub(super) fn work(shared: &Shared) {
    let worked = catch_unwind(AssertUnwindSafe(|| {
        while let Some(ticket) = shared.next_ticket() {
            let opened = guarded(shared, &ticket, || shared.maker.open(ticket.sample));
            let bytes = ticket.admitted.unwrap_or_else(|| opened.as_ref().map_or(0, Opened::bytes_while_decoding));
            if ticket.admitted.is_none() && !shared.admit(&ticket, bytes) {
                return;
            }
            let made = opened.and_then(|opened| guarded(shared, &ticket, || shared.maker.decode(opened)));
            let kept = made.as_ref().map_or(0, Example::bytes);
            shared.finish(Outcome { ticket, made, bytes: kept }, bytes);
        }
    }));
    if worked.is_err() {
        // Whoever waits for this thread's sample would wait for ever.
        shared.stop();
    }
}

/// Turns a panic, a defect of a decoder or of this library, into an error of the one sample.
fn guarded<T>(shared: &Shared, ticket: &Ticket, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let made = catch_unwind(AssertUnwindSafe(make));
    made.unwrap_or_else(|_| {
        Err(Error::internal("making an example of it fails").at(shared.maker.samples().name(ticket.sample)))
    })
}
