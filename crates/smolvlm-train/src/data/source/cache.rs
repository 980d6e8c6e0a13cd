//! Row groups of parquet files in memory, the latest used of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::data::value::Value;
use crate::{Error, ErrorKind, Result};

/// The rows of one row group, or why they cannot be read.
type Loaded = Result<Arc<Vec<Value>>, (ErrorKind, String)>;

/// Keeps row groups as long as they fit. Rows in use stay alive beyond that.
#[derive(Debug)]
pub(crate) struct GroupCache {
    limit: u64,
    /// The latest used last.
    slots: Mutex<VecDeque<Arc<Slot>>>,
}

#[derive(Debug)]
struct Slot {
    file: PathBuf,
    group: usize,
    rows: OnceLock<Loaded>,
    bytes: OnceLock<u64>,
}

impl GroupCache {
    /// A cache of at most `limit` bytes, and of one group if that alone has more.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, slots: Mutex::default() }
    }

    /// The rows of a group, read by `load` if they are not here. Threads that want the same group wait for the one that
    /// reads it.
    pub(super) fn get(
        &self,
        file: &PathBuf,
        group: usize,
        load: impl FnOnce() -> Result<Vec<Value>>,
    ) -> Result<Arc<Vec<Value>>> {
        let slot = self.slot(file, group);
        let loaded = slot.rows.get_or_init(|| {
            let rows = load().map_err(|error| (error.kind(), error.to_string()))?;
            let bytes = rows.iter().map(Value::size).sum();
            let _ = slot.bytes.set(bytes);
            Ok(Arc::new(rows))
        });
        self.evict();
        loaded.clone().map_err(|(kind, message)| Error::new(kind, message))
    }

    fn slot(&self, file: &PathBuf, group: usize) -> Arc<Slot> {
        let mut slots = self.lock();
        let found = slots.iter().position(|slot| slot.group == group && slot.file == *file);
        let slot = found.and_then(|at| slots.remove(at)).unwrap_or_else(|| {
            Arc::new(Slot { file: file.clone(), group, rows: OnceLock::new(), bytes: OnceLock::new() })
        });
        slots.push_back(slot.clone());
        slot
    }

    fn evict(&self) {
        let mut slots = self.lock();
        let bytes = |slot: &Arc<Slot>| slot.bytes.get().copied().unwrap_or(0);
        let mut total: u64 = slots.iter().map(bytes).sum();
        while total > self.limit && slots.len() > 1 {
            total -= slots.pop_front().as_ref().map_or(0, bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: usize) -> Result<Vec<Value>> {
        Ok(vec![Value::Bytes(vec![0; bytes].into())])
    }

    #[test]
    fn the_group_that_was_used_longest_ago_goes_first() {
        let cache = GroupCache::new(2500);
        let file = PathBuf::from("a.parquet");
        for group in [0, 1, 0, 2] {
            cache.get(&file, group, || rows(1000)).unwrap();
        }
        cache.get(&file, 0, || panic!("group 0 is kept")).unwrap();
        cache.get(&file, 2, || panic!("group 2 is kept")).unwrap();
        let mut read_again = false;
        cache.get(&file, 1, || (read_again = true, rows(1000)).1).unwrap();
        assert!(read_again);
    }

    #[test]
    fn a_group_larger_than_the_cache_is_kept_alone() {
        let cache = GroupCache::new(10);
        let file = PathBuf::from("a.parquet");
        cache.get(&file, 0, || rows(1000)).unwrap();
        cache.get(&file, 0, || panic!("it is kept")).unwrap();
    }

    #[test]
    fn a_group_that_cannot_be_read_says_so_every_time() {
        let cache = GroupCache::new(10);
        let file = PathBuf::from("a.parquet");
        for _ in 0..2 {
            let error = cache.get(&file, 0, || Err(Error::input("broken"))).unwrap_err();
            assert_eq!(error.to_string(), "broken");
        }
    }
}
