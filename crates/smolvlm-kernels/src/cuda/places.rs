//! Which parts of a range of addresses are in use.

use std::collections::BTreeMap;

/// Part of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Place {
    pub(super) fn end(self) -> u64 {
        self.offset + self.bytes
    }
}

/// Places that are taken, and the gaps between them.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Offset → bytes.
    used: BTreeMap<u64, u64>,
    /// The same of what is free below `end`; no two touch.
    gaps: BTreeMap<u64, u64>,
    /// Behind the last place that is in use.
    end: u64,
}

impl Places {
    /// The lowest free place for `bytes`.
    pub(super) fn first(&self, bytes: u64) -> Place {
        let gap = self.gaps.iter().find(|(_, free)| **free >= bytes);
        Place { offset: gap.map_or(self.end, |(offset, _)| *offset), bytes }
    }

    /// Takes a free place.
    pub(super) fn take(&mut self, place: Place) {
        self.used.insert(place.offset, place.bytes);
        let within = if place.offset < self.end { self.gaps.range(..=place.offset).next_back() } else { None };
        let (start, end) = match within {
            Some((offset, free)) => (*offset, offset + free),
            None => (self.end, place.end()),
        };
        self.gaps.remove(&start);
        if start < place.offset {
            self.gaps.insert(start, place.offset - start);
        }
        if place.end() < end {
            self.gaps.insert(place.end(), end - place.end());
        }
        self.end = self.end.max(place.end());
    }

    /// Frees the place that begins at `offset`.
    pub(super) fn give_back(&mut self, offset: u64) {
        let Some(bytes) = self.used.remove(&offset) else { return };
        let (mut start, mut end) = (offset, offset + bytes);
        if let Some((before, free)) = self.gaps.range(..offset).next_back()
            && before + free == offset
        {
            start = *before;
            self.gaps.remove(&start);
        }
        if let Some(free) = self.gaps.remove(&end) {
            end += free;
        }
        if end == self.end {
            self.end = start;
        } else {
            self.gaps.insert(start, end - start);
        }
    }

    /// The place that begins at `offset`, if one does.
    pub(super) fn at(&self, offset: u64) -> Option<Place> {
        self.used.get(&offset).map(|bytes| Place { offset, bytes: *bytes })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `first` finds, by looking at every place in use.
    fn lowest(places: &Places, bytes: u64) -> u64 {
        let mut offset = 0;
        for (start, used) in &places.used {
            if offset + bytes <= *start {
                break;
            }
            offset = start + used;
        }
        offset
    }

    #[test]
    fn the_lowest_place_that_fits_is_found_whatever_was_taken_and_given_back() {
        let (mut places, mut taken, mut state) = (Places::default(), Vec::new(), 7_u64);
        for _ in 0..4000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 1 && !taken.is_empty() {
                places.give_back(taken.swap_remove((state >> 33) as usize % taken.len()));
            } else {
                let place = places.first(1 + (state >> 40) % 9);
                assert_eq!(place.offset, lowest(&places, place.bytes));
                places.take(place);
                assert_eq!(places.at(place.offset), Some(place));
                taken.push(place.offset);
            }
        }
        taken.into_iter().for_each(|offset| places.give_back(offset));
        assert!(places.is_empty() && places.gaps.is_empty() && places.end == 0);
    }

    #[test]
    fn a_place_may_be_taken_again_where_nothing_else_is() {
        let mut places = Places::default();
        places.take(Place { offset: 10, bytes: 5 });
        assert_eq!(places.first(10).offset, 0);
        assert_eq!(places.first(11).offset, 15);
        places.take(Place { offset: 2, bytes: 3 });
        assert_eq!((places.first(2).offset, places.first(3).offset, places.first(6).offset), (0, 5, 15));
        places.give_back(10);
        assert_eq!(places.first(9).offset, 5);
    }
}
