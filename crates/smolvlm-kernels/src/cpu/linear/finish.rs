//! The end of a product: a tile's sums become numbers of the result.

use std::ops::Range;

use super::Product;
use crate::backend::Activation;
use crate::cpu::lanes::{Finish, Scales, TileActivation, TileTarget};
use crate::cpu::matmul::{PANEL, Tile};
use crate::cpu::prefetch;

impl Product<'_> {
    /// Bytes of a number of the result.
    fn number(&self) -> usize {
        if self.narrow { size_of::<u16>() } else { size_of::<f32>() }
    }

    /// The numbers of a row that a panel gives: the first, and how many.
    fn columns(&self, panel: usize) -> (usize, usize) {
        let columns = if self.epilogue.activation == Activation::SwiGlu { PANEL / 2 } else { PANEL };
        (panel * columns, columns.min(self.width.saturating_sub(panel * columns)))
    }

    /// Where a panel's numbers of some rows go.
    fn target(&self, first_row: usize, rows: usize, panel: usize) -> TileTarget {
        let ((first, columns), size) = (self.columns(panel), self.number());
        let start = self.out.start(first_row, rows, first * size, columns * size);
        TileTarget { start, stride: self.out.stride(), columns, narrow: self.narrow }
    }

    /// How many rows from `row` on stand one after another in the residual, at most `most`, and their first.
    fn residual_rows(&self, row: usize, most: usize) -> (usize, usize) {
        self.epilogue.residual.map_or((most, 0), |residual| {
            let first = row % residual.rows();
            (most.min(residual.rows() - first), first)
        })
    }

    /// Says that a panel's numbers of some rows will be written soon.
    pub(super) fn finish_soon(&self, rows: Range<usize>, panel: usize) {
        if rows.is_empty() {
            return;
        }
        let target = self.target(rows.start, rows.len(), panel);
        prefetch::write_soon(target.start, rows.len(), target.stride, target.columns * self.number());
        if let Some(residual) = self.epilogue.residual {
            let (rows, row) = self.residual_rows(rows.start, rows.len());
            let (start, stride) = residual.place(row, rows, self.columns(panel).0, target.columns);
            prefetch::write_soon(start, rows, stride, target.columns * size_of::<f32>());
        }
    }

    /// Applies the epilogue to a tile and writes its rows.
    pub(super) fn finish(&self, tile: &mut Tile, first_row: usize, rows: usize, panel: usize) {
        let mut padded = [0.0; PANEL];
        let bias = self.epilogue.bias.map(|bias| {
            let bias = &bias[panel * PANEL..];
            let len = bias.len().min(PANEL);
            padded[..len].copy_from_slice(&bias[..len]);
            &padded
        });
        let activation = match self.epilogue.activation {
            Activation::Identity => TileActivation::Identity,
            Activation::GeluTanh => TileActivation::GeluTanh,
            Activation::SwiGlu => TileActivation::SwiGlu,
        };
        let first = self.columns(panel).0;
        let mut done = 0;
        while done < rows {
            let row = first_row + done;
            let (rows, residual_row) = self.residual_rows(row, rows - done);
            let target = self.target(row, rows, panel);
            let scales = self.weight.format().is_quantised().then(|| {
                let (outputs, totals) = self.weight.trailer(panel);
                Scales { rows: &self.steps[row..row + rows], outputs, totals }
            });
            let residual =
                self.epilogue.residual.map(|residual| residual.place(residual_row, rows, first, target.columns));
            if done > 0 {
                tile.0.copy_within(done..done + rows, 0);
            }
            // SAFETY: `place` and `target` hold the rows inside their tensors; each row and panel is written once, by one
            // task, and the residual is another tensor.
            unsafe {
                self.backend.isa.rows.finish(tile, &Finish { rows, scales, bias, activation, residual, target });
            }
            done += rows;
        }
    }
}
