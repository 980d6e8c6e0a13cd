//! One tensor as it lies in a file.

use std::fmt;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::{Error, Result};

/// The number formats in which weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// IEEE single precision.
    F32,
    /// The upper half of a single.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl StoredDtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The format a `safetensors` header names, if weights may have it.
    pub(super) fn from_safetensors(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F16 => Some(Self::F16),
            _ => None,
        }
    }

    /// The format that `config.json` names (`torch_dtype` or `dtype`), if weights may have it.
    pub(super) fn from_config(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" | "float" => Some(Self::F32),
            "bfloat16" => Some(Self::Bf16),
            "float16" | "half" => Some(Self::F16),
            _ => None,
        }
    }
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

/// A tensor inside a memory-mapped file: little-endian elements, row-major, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct StoredTensor<'a> {
    /// Its name in the layout of [`super::names`], whatever the file calls it.
    pub name: &'a str,
    /// How its elements are stored.
    pub dtype: StoredDtype,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
    /// Its elements; `shape.product() * dtype.size()` bytes.
    pub bytes: &'a [u8],
}

impl StoredTensor<'_> {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// All elements in single precision, which represents each stored format exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        widen(self.dtype, self.bytes, &mut out);
        out
    }

    /// All elements in bf16: as stored, or rounded to nearest even.
    pub fn to_bf16(&self) -> Vec<bf16> {
        let pairs = self.bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        match self.dtype {
            StoredDtype::Bf16 => pairs.map(bf16::from_le_bytes).collect(),
            StoredDtype::F16 => pairs.map(|pair| bf16::from_f32(f16::from_le_bytes(pair).to_f32())).collect(),
            StoredDtype::F32 => self
                .bytes
                .chunks_exact(4)
                .map(|four| bf16::from_f32(f32::from_le_bytes([four[0], four[1], four[2], four[3]])))
                .collect(),
        }
    }

    /// Fills `out` with the elements from number `start` on, in single precision: a row of an embedding table, or a
    /// panel of a matrix, without widening the whole tensor.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when the tensor ends before `out` is full.
    pub fn copy_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let size = self.dtype.size();
        let bytes = start
            .checked_mul(size)
            .zip(start.checked_add(out.len()).and_then(|end| end.checked_mul(size)))
            .and_then(|(from, to)| self.bytes.get(from..to));
        let Some(bytes) = bytes else {
            let (name, len, elements) = (self.name, out.len(), self.elements());
            return Err(Error::internal(format!("{name}: {len} elements from {start} on were asked of {elements}")));
        };
        widen(self.dtype, bytes, out);
        Ok(())
    }
}

/// Writes the elements of `bytes` to `out`, which is as long.
fn widen(dtype: StoredDtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        StoredDtype::F32 => {
            for (out, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
        StoredDtype::Bf16 => {
            for (out, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
            }
        }
        StoredDtype::F16 => {
            for (out, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f32; 4] = [1.0, -2.5, 0.15625, 3.0];

    fn stored(dtype: StoredDtype) -> Vec<u8> {
        VALUES
            .iter()
            .flat_map(|&value| match dtype {
                StoredDtype::F32 => value.to_le_bytes().to_vec(),
                StoredDtype::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
                StoredDtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            })
            .collect()
    }

    #[test]
    fn each_format_widens_exactly_even_when_unaligned() {
        for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
            let mut bytes = vec![0];
            bytes.extend(stored(dtype));
            let tensor = StoredTensor { name: "t", dtype, shape: &[2, 2], bytes: &bytes[1..] };
            assert_eq!(tensor.to_f32(), VALUES, "{dtype}");
            assert_eq!(tensor.to_bf16(), VALUES.map(bf16::from_f32), "{dtype}");
            let mut row = [0.0; 2];
            tensor.copy_f32(2, &mut row).unwrap();
            assert_eq!(row, VALUES[2..], "{dtype}");
        }
    }

    #[test]
    fn a_row_beyond_the_end_is_refused() {
        let bytes = stored(StoredDtype::Bf16);
        let tensor = StoredTensor { name: "t", dtype: StoredDtype::Bf16, shape: &[4], bytes: &bytes };
        assert!(tensor.copy_f32(3, &mut [0.0; 2]).is_err());
        assert!(tensor.copy_f32(usize::MAX, &mut [0.0; 2]).is_err());
    }

    #[test]
    fn bf16_is_rounded_to_nearest_and_halves_to_even() {
        for (eighths, rounded) in [(3, 0), (4, 0), (5, 1), (11, 1), (12, 2)] {
            let bytes = (1.0 + eighths as f32 / 1024.0).to_le_bytes();
            let tensor = StoredTensor { name: "t", dtype: StoredDtype::F32, shape: &[1], bytes: &bytes };
            assert_eq!(tensor.to_bf16()[0].to_f32(), 1.0 + rounded as f32 / 128.0, "{eighths}/1024");
        }
    }
}
