//! Inputs of steps, which a tape may refer to longer than they are new.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use smolvlm_kernels::TrainBackend;

use crate::parameters::lock;

/// Plans that nothing refers to any more, to be filled again: a new one takes memory of the device.
pub(super) struct Plans<B: TrainBackend>(Mutex<Vec<B::Plan>>);

impl<B: TrainBackend> Default for Plans<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A plan, given back when the last tape that refers to it is gone.
pub(super) struct Lent<B: TrainBackend> {
    /// Always there, but while it is given back.
    plan: Option<B::Plan>,
    plans: Arc<Plans<B>>,
}

impl<B: TrainBackend> Plans<B> {
    pub(super) fn lend(self: &Arc<Self>, backend: &B) -> Lent<B> {
        let spare = lock(&self.0).pop();
        Lent { plan: Some(spare.unwrap_or_else(|| backend.plan())), plans: self.clone() }
    }
}

impl<B: TrainBackend> Lent<B> {
    pub(super) fn plan_mut(&mut self) -> &mut B::Plan {
        self.plan.as_mut().expect("a plan until it is given back")
    }
}

impl<B: TrainBackend> Deref for Lent<B> {
    type Target = B::Plan;

    fn deref(&self) -> &B::Plan {
        self.plan.as_ref().expect("a plan until it is given back")
    }
}

impl<B: TrainBackend> Drop for Lent<B> {
    fn drop(&mut self) {
        lock(&self.plans.0).extend(self.plan.take());
    }
}
