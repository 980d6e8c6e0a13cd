//! One tensor as it lies in a file.

use std::fmt;

use safetensors::Dtype;
use smolvlm_kernels::Elements;

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

impl<'a> StoredTensor<'a> {
    /// Its numbers, for packing or widening.
    pub fn elements(&self) -> Elements<'a> {
        match self.dtype {
            StoredDtype::F32 => Elements::F32(self.bytes),
            StoredDtype::Bf16 => Elements::Bf16(self.bytes),
            StoredDtype::F16 => Elements::F16(self.bytes),
        }
    }

    /// All elements in single precision, which represents each stored format exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        let elements = self.elements();
        let mut out = vec![0.0; elements.len()];
        elements.widen(0, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

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
        }
    }
}
