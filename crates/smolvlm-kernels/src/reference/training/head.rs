//! One head of an attention, with its backward.

use super::ReferenceBackend;
use crate::training::Rope;

/// Rows of one softmax: `(rows, keys of a row)` by `queries`, `keys` and `values`, each `[rows, d]`, and gradients of all.
pub(super) struct Head<'a> {
    pub(super) queries: Vec<Vec<f64>>,
    pub(super) keys: Vec<Vec<f64>>,
    pub(super) values: Vec<Vec<f64>>,
    /// How many keys a query sees, from the first on.
    pub(super) seen: &'a dyn Fn(usize) -> usize,
}

impl Head<'_> {
    /// Gradients of queries, keys and values for that of the result.
    pub(super) fn backward(&self, dy: &[Vec<f64>]) -> [Vec<Vec<f64>>; 3] {
        let zeros = |rows: &[Vec<f64>]| vec![vec![0.0; rows[0].len()]; rows.len()];
        let (mut dq, mut dk, mut dv) = (zeros(&self.queries), zeros(&self.keys), zeros(&self.values));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scale = (self.queries[0].len() as f64).powf(-0.5);
        for (row, query) in self.queries.iter().enumerate() {
            let seen = (self.seen)(row);
            let scores: Vec<f64> = self.keys[..seen].iter().map(|key| dot(query, key) * scale).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp() / total).collect();
            let slopes: Vec<f64> = self.values[..seen].iter().map(|value| dot(&dy[row], value)).collect();
            let mean = dot(&weights, &slopes);
            for j in 0..seen {
                let score = weights[j] * (slopes[j] - mean) * scale;
                for i in 0..query.len() {
                    dq[row][i] += score * self.keys[j][i];
                    dk[j][i] += score * query[i];
                    dv[j][i] += weights[j] * dy[row][i];
                }
            }
        }
        [dq, dk, dv]
    }
}

pub(super) fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|x| f64::from(*x)).collect()
}

/// Rotates a head by a position's angles, forwards or backwards.
pub(super) fn rotate(head: &mut [f64], rope: Rope<'_, ReferenceBackend>, position: usize, direction: f64) {
    let half = head.len() / 2;
    for i in 0..half {
        let angle = position * half + i;
        let (cos, sin) = (f64::from(rope.cos[angle]), f64::from(rope.sin[angle]) * direction);
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
    }
}
