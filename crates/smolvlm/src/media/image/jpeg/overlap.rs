//! Painting on a second thread while this one decodes.

use std::sync::mpsc;

use super::block::Block;
use super::frame::Frame;
use super::paint::{McuRow, Painter, empty_row};
use crate::media::Image;
use crate::{Error, Result};

/// Rows of MCUs between the threads: enough that neither waits for the other's short stalls.
const ROWS_AHEAD: usize = 4;

/// Takes a row of coefficients and gives back an empty one.
pub(super) type Emit<'e> = dyn FnMut(McuRow) -> Result<McuRow> + 'e;

/// Calls `decode` with what paints the rows that it makes, in order, and returns the painted picture. With one thread,
/// it is painted on this one.
pub(super) fn paint(
    frame: &Frame,
    mut painter: Painter<'_>,
    threads: usize,
    decode: impl FnOnce(&mut Emit<'_>) -> Result<()>,
) -> Result<Image> {
    if threads <= 1 {
        decode(&mut |mut row| {
            paint_and_clear(&mut painter, &mut row);
            Ok(row)
        })?;
        return Ok(painter.finish());
    }
    let (filled, to_paint) = mpsc::sync_channel::<McuRow>(ROWS_AHEAD);
    let (emptied, painted) = mpsc::channel();
    std::thread::scope(|scope| {
        let paints = scope.spawn(move || {
            for mut row in to_paint {
                paint_and_clear(&mut painter, &mut row);
                // Nobody wants the last rows back.
                let _ = emptied.send(row);
            }
            painter.finish()
        });
        let decoded = decode(&mut |row| {
            filled.send(row).map_err(|_| Error::internal("the thread that paints has ended"))?;
            Ok(painted.try_recv().unwrap_or_else(|_| empty_row(frame)))
        });
        drop(filled);
        let image = paints.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        decoded.map(|()| image)
    })
}

fn paint_and_clear(painter: &mut Painter<'_>, row: &mut McuRow) {
    painter.row(row.iter().map(Vec::as_slice));
    row.iter_mut().flatten().for_each(|block: &mut Block| block.fill(0));
}
