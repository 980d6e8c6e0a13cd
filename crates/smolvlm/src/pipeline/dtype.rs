//! Number formats by the names that people use.

use smolvlm_kernels::Format;
use smolvlm_kernels::cpu::InstructionSet;

/// The number format of weights and cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats: agrees with the reference in f32.
    F32,
    /// bfloat16, sums in f32: half the memory.
    Bf16,
    /// 8-bit integers, attention in bf16: a quarter of the memory, and not the reference's numbers any more.
    Q8,
    /// The text layers in 4-bit integers, the rest as in [`Q8`](Self::Q8).
    Q4,
}

impl Dtype {
    /// bf16 where this machine's processor multiplies it in hardware, else f32.
    pub fn best() -> Self {
        if InstructionSet::best().fast_bf16 { Self::Bf16 } else { Self::F32 }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.format().name()
    }

    /// The kernels' name for it.
    pub fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
            Self::Q8 => Format::Q8,
            Self::Q4 => Format::Q4,
        }
    }
}

impl From<Format> for Dtype {
    fn from(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::Bf16 => Self::Bf16,
            Format::Q8 => Self::Q8,
            Format::Q4 => Self::Q4,
        }
    }
}
