//! The bytes of a packed checkpoint: what the CPU backend makes of a published one's weights.

use smolvlm_kernels::CpuBackend;
use smolvlm_kernels::packed::Arrangement;

use super::weights::WeightsAt;
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::plan::Planned;

/// Packs one matrix of a validated published checkpoint and hands its bytes to `write`.
///
/// # Errors
/// [`Checkpoint`](crate::ErrorKind::Checkpoint) when a tensor is missing or has another shape; those of `write`.
pub(crate) fn packed_bytes(
    backend: &CpuBackend,
    checkpoint: &Checkpoint,
    matrix: &Planned,
    write: impl FnOnce(&[u8]) -> Result<()>,
) -> Result<()> {
    let weights = WeightsAt::root(backend, checkpoint, matrix.format);
    let parts: Vec<(&str, usize)> = matrix.parts.iter().map(|part| (part.name.as_str(), part.rows())).collect();
    let inputs = matrix.shape().inputs;
    match (matrix.arrangement, parts.as_slice()) {
        (Arrangement::Table, [(name, rows)]) => write(weights.table(name, *rows, inputs)?.bytes()),
        (Arrangement::GateUp, [(gate, outputs), (up, _)]) => {
            write(weights.gate_up(gate, up, *outputs, inputs)?.bytes())
        }
        (_, parts) => write(weights.stacked(parts, inputs)?.bytes()),
    }
}
