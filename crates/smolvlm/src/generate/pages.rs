//! Which pages of the key-value cache are free.

use smolvlm_kernels::PAGE_TOKENS;

/// Hands out page numbers.
pub(super) struct PagePool {
    free: Vec<u32>,
    capacity: usize,
}

impl PagePool {
    pub(super) fn new(capacity: usize) -> Self {
        Self { free: (0..capacity as u32).rev().collect(), capacity }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages for `tokens` tokens, or none if not enough are free.
    pub(super) fn take(&mut self, tokens: usize) -> Option<Vec<u32>> {
        let count = pages_for(tokens);
        (count <= self.free.len()).then(|| self.free.split_off(self.free.len() - count))
    }

    pub(super) fn give_back(&mut self, pages: Vec<u32>) {
        self.free.extend(pages);
    }
}

/// Pages that hold `tokens` tokens.
pub(super) fn pages_for(tokens: usize) -> usize {
    tokens.div_ceil(PAGE_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_unique_until_they_are_given_back() {
        let mut pool = PagePool::new(4);
        let first = pool.take(65).expect("two pages");
        let second = pool.take(128).expect("two pages");
        assert!(first.iter().all(|page| !second.contains(page)));
        assert!(pool.take(1).is_none());
        pool.give_back(first);
        assert_eq!(pool.take(1).map(|pages| pages.len()), Some(1));
    }
}
