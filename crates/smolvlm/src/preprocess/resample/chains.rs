//! Chains that are kept: the weights of a resize cost as much as resizing a small picture, and sizes come again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Resampler;
use super::chain::Chain;
use crate::preprocess::geometry::Size;

/// Chains kept: more than a set of drawn or of photographed pictures has sizes, twice.
const KEPT: usize = 32;

/// Pictures with a longer side are resized by chains of their own: their weights take memory, and making them is a small part of the work.
const LONGEST: usize = 4096;

/// The chains that were made last. Clones share them.
#[derive(Clone, Default)]
pub(in crate::preprocess) struct Chains(Arc<Mutex<Vec<Kept>>>);

struct Kept {
    resampler: Resampler,
    from: Size,
    sizes: Vec<Size>,
    chain: Arc<Chain>,
}

impl Chains {
    /// As [`Chain::new`].
    pub(in crate::preprocess) fn get(&self, resampler: Resampler, from: Size, sizes: &[Size]) -> Arc<Chain> {
        if from.width.max(from.height) > LONGEST {
            return Arc::new(Chain::new(resampler, from, sizes));
        }
        let is_it = |kept: &Kept| kept.resampler == resampler && kept.from == from && kept.sizes == sizes;
        if let Some(kept) = self.lock().iter().find(|kept| is_it(kept)) {
            return kept.chain.clone();
        }
        // Made outside of the lock; two threads that make the same keep it twice.
        let chain = Arc::new(Chain::new(resampler, from, sizes));
        let mut all = self.lock();
        if all.len() == KEPT {
            all.remove(0);
        }
        all.push(Kept { resampler, from, sizes: sizes.to_vec(), chain: chain.clone() });
        chain
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chains", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::resample::{Arithmetic, Filter};

    #[test]
    fn a_chain_is_made_once_and_the_oldest_are_forgotten() {
        let resampler = Resampler { filter: Filter::Lanczos, arithmetic: Arithmetic::Torch };
        let chains = Chains::default();
        let get = |width| chains.clone().get(resampler, Size::new(width, 9), &[Size::square(8)]);
        let first = get(5);
        assert!(Arc::ptr_eq(&first, &get(5)) && !Arc::ptr_eq(&first, &get(6)));
        (0..KEPT).for_each(|width| drop(get(100 + width)));
        assert!(!Arc::ptr_eq(&first, &get(5)));
        assert_eq!(chains.lock().len(), KEPT);
        let other = chains.get(resampler, Size::new(5, 9), &[Size::square(7)]);
        assert!(!Arc::ptr_eq(&other, &get(5)));
    }
}
