//! Image features on their way from the vision tower to the text model.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smolvlm_kernels::{Backend, FeatureRow};

use crate::{Error, Result};

/// Image features `[image tokens, hidden]` in the order of a prompt's image tokens: as numbers, or where an engine keeps them
/// on its device, which it frees when the last copy of this is dropped. [`Engine::download`](super::Engine::download) tells their numbers.
#[derive(Clone, Default)]
pub struct Features {
    parts: Vec<Part>,
}

/// Some of them.
#[derive(Clone)]
enum Part {
    /// `[rows, hidden]`.
    Numbers(Vec<f32>),
    Kept(Kept),
}

/// Features on the device of one engine.
#[derive(Clone)]
struct Kept {
    engine: u64,
    rows: usize,
    /// The engine's own kind of tensor.
    tensor: Arc<dyn Any + Send + Sync>,
}

impl Features {
    /// Adds what comes after these.
    pub fn append(&mut self, others: Self) {
        if self.parts.is_empty() {
            *self = others;
            return;
        }
        for part in others.parts {
            match part {
                Part::Numbers(numbers) => self.push_numbers(&numbers),
                kept @ Part::Kept(_) => self.parts.push(kept),
            }
        }
    }

    /// How many image tokens they are for, `hidden` numbers each; part of one counts as one.
    pub(super) fn rows(&self, hidden: usize) -> usize {
        let rows = |part: &Part| match part {
            Part::Numbers(numbers) => numbers.len().div_ceil(hidden),
            Part::Kept(kept) => kept.rows,
        };
        self.parts.iter().map(rows).sum()
    }

    pub(super) fn push_numbers(&mut self, numbers: &[f32]) {
        match self.parts.last_mut() {
            Some(Part::Numbers(last)) => last.extend_from_slice(numbers),
            _ => self.parts.push(Part::Numbers(numbers.to_vec())),
        }
    }

    /// Adds rows that engine `engine` keeps.
    pub(super) fn push_kept<T: Any + Send + Sync>(&mut self, engine: u64, rows: usize, tensor: T) {
        self.parts.push(Part::Kept(Kept { engine, rows, tensor: Arc::new(tensor) }));
    }

    /// The numbers of all; `download` adds those of a tensor of engine `engine`.
    ///
    /// # Errors
    /// When another engine keeps some.
    pub(super) fn numbers<T: Any + Send + Sync>(
        &self,
        engine: u64,
        mut download: impl FnMut(&T, &mut Vec<f32>),
    ) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for part in &self.parts {
            match part {
                Part::Numbers(numbers) => all.extend_from_slice(numbers),
                Part::Kept(kept) => download(&*kept.tensor_of(engine)?, &mut all),
            }
        }
        Ok(all)
    }

    /// Whether engine `engine` can use them.
    ///
    /// # Errors
    /// When another one keeps some.
    pub(super) fn check<T: Any + Send + Sync>(&self, engine: u64) -> Result<()> {
        self.kept().try_for_each(|kept| kept.tensor_of::<T>(engine).map(drop))
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.parts.iter().filter_map(|part| match part {
            Part::Kept(kept) => Some(kept),
            Part::Numbers(_) => None,
        })
    }
}

impl From<Vec<f32>> for Features {
    /// Numbers `[image tokens, hidden]`.
    fn from(numbers: Vec<f32>) -> Self {
        Self { parts: if numbers.is_empty() { Vec::new() } else { vec![Part::Numbers(numbers)] } }
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: &Part| match part {
            Part::Numbers(numbers) => format!("{} numbers", numbers.len()),
            Part::Kept(kept) => format!("{} rows on the device", kept.rows),
        };
        f.debug_list().entries(self.parts.iter().map(part)).finish()
    }
}

impl Kept {
    fn tensor_of<T: Any + Send + Sync>(&self, engine: u64) -> Result<Arc<T>> {
        let tensor = if self.engine == engine { self.tensor.clone().downcast().ok() } else { None };
        tensor.ok_or_else(|| {
            Error::usage("image features that another engine keeps on its device: download them there first")
        })
    }
}

/// The features of one sequence's prompt where the backend computes, and the positions that show them.
pub(super) struct Shown<B: Backend> {
    /// Each with the number of its first row among all.
    sources: Vec<(usize, Arc<B::Tensor>)>,
    /// Ascending.
    positions: Vec<usize>,
}

impl<B: Backend> Shown<B> {
    /// Features for `positions` of a prompt, which [`Features::check`] found to be those of engine `engine`.
    pub(super) fn new(backend: &B, engine: u64, features: Features, positions: Vec<usize>, hidden: usize) -> Self {
        let (mut sources, mut first) = (Vec::new(), 0);
        for part in features.parts {
            let (rows, tensor) = match part {
                Part::Numbers(numbers) => {
                    let rows = numbers.len() / hidden;
                    (rows, Some(Arc::new(backend.upload(rows, hidden, &numbers))))
                }
                Part::Kept(kept) => (kept.rows, kept.tensor_of(engine).ok()),
            };
            sources.extend(tensor.map(|tensor| (first, tensor)));
            first += rows;
        }
        Self { sources, positions }
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &B::Tensor> {
        self.sources.iter().map(|(_, tensor)| &**tensor)
    }

    /// Rows of a step, from `row` on, that show features because the prompt's tokens at `positions` do; `source` is the place of the first of
    /// these sources among the step's.
    pub(super) fn rows(&self, positions: Range<usize>, row: usize, source: usize) -> impl Iterator<Item = FeatureRow> {
        let first = self.positions.partition_point(|position| *position < positions.start);
        let last = self.positions.partition_point(|position| *position < positions.end);
        (first..last).map(move |i| {
            let of = self.sources.partition_point(|(first, _)| *first <= i).saturating_sub(1);
            let index = i - self.sources.get(of).map_or(0, |(first, _)| *first);
            let row = row + self.positions[i] - positions.start;
            FeatureRow { row: row as u32, source: (source + of) as u32, index: index as u32 }
        })
    }
}

#[cfg(test)]
mod tests {
    use smolvlm_kernels::ReferenceBackend;

    use super::*;

    fn row_of_step(row: u32, source: u32, index: u32) -> FeatureRow {
        FeatureRow { row, source, index }
    }

    #[test]
    fn parts_are_found_by_the_order_of_their_rows() {
        let backend = ReferenceBackend;
        let mut features = Features::from(vec![1.0; 4]);
        features.append(Features::from(vec![2.0; 2]));
        features.push_kept(7, 2, backend.upload(2, 2, &[3.0; 4]));
        features.append(Features::from(vec![4.0; 2]));
        assert_eq!(features.rows(2), 6);
        let positions = vec![1, 2, 3, 10, 11, 12];
        let shown = Shown::new(&backend, 7, features, positions, 2);
        assert_eq!(shown.sources().count(), 3);
        let rows: Vec<FeatureRow> = shown.rows(0..20, 100, 5).collect();
        let expected = [(101, 5, 0), (102, 5, 1), (103, 5, 2), (110, 6, 0), (111, 6, 1), (112, 7, 0)]
            .map(|(a, b, c)| row_of_step(a, b, c));
        assert_eq!(rows, expected);
        let chunk: Vec<FeatureRow> = shown.rows(3..12, 0, 0).collect();
        assert_eq!(chunk, [row_of_step(0, 0, 2), row_of_step(7, 1, 0), row_of_step(8, 1, 1)]);
    }

    #[test]
    fn features_of_another_engine_are_refused() {
        let backend = ReferenceBackend;
        let mut features = Features::default();
        features.push_kept(1, 1, backend.upload(1, 2, &[5.0, 6.0]));
        type Tensor = <ReferenceBackend as Backend>::Tensor;
        let download = |tensor: &Tensor, numbers: &mut Vec<f32>| numbers.extend(backend.download(tensor));
        assert_eq!(features.numbers(1, download).unwrap(), [5.0, 6.0]);
        assert!(features.check::<Tensor>(1).is_ok());
        assert!(features.check::<Tensor>(2).is_err());
        assert!(features.check::<u8>(1).is_err());
        assert!(features.numbers(2, download).is_err());
    }
}
