//! Which instructions this machine has, and the kernels that use them.

use super::lanes::RowKernels;
use super::matmul::TileKernels;

/// An instruction set this machine has, with every kernel compiled for it.
#[derive(Clone, Copy)]
pub struct InstructionSet {
    /// Its name, for people.
    pub name: &'static str,
    /// Whether bfloat16 products run in hardware.
    pub fast_bf16: bool,
    /// Tile products.
    pub tiles: TileKernels,
    /// Row-wise operations.
    pub rows: RowKernels,
}

impl InstructionSet {
    /// The names of all sets, best first, whatever this machine has.
    pub const NAMES: [&str; 8] =
        ["amx", "avx512-bf16", "avx2-vnni", "avx2", "neon-bf16-i8mm", "neon-dotprod", "neon", "portable"];

    /// Every set that this machine has, best first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            #[cfg(target_os = "linux")]
            if let (Some(tiles), Some(rows)) = (TileKernels::amx(), RowKernels::avx512()) {
                sets.push(Self { name: "amx", fast_bf16: true, tiles, rows });
            }
            if let (Some(tiles), Some(rows)) = (TileKernels::avx512(), RowKernels::avx512()) {
                sets.push(Self { name: "avx512-bf16", fast_bf16: true, tiles, rows });
            }
            if let (Some(tiles), Some(rows)) = (TileKernels::avx2_vnni(), RowKernels::avx2()) {
                sets.push(Self { name: "avx2-vnni", fast_bf16: false, tiles, rows });
            }
            if let (Some(tiles), Some(rows)) = (TileKernels::avx2(), RowKernels::avx2()) {
                sets.push(Self { name: "avx2", fast_bf16: false, tiles, rows });
            }
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(rows) = RowKernels::neon() {
            let products = [
                ("neon-bf16-i8mm", true, TileKernels::neon_bf16_i8mm()),
                ("neon-dotprod", false, TileKernels::neon_dotprod()),
                ("neon", false, TileKernels::neon()),
            ];
            for (name, fast_bf16, tiles) in products {
                sets.extend(tiles.map(|tiles| Self { name, fast_bf16, tiles, rows }));
            }
        }
        sets.push(Self {
            name: "portable",
            fast_bf16: false,
            tiles: TileKernels::portable(),
            rows: RowKernels::portable(),
        });
        sets
    }

    /// The best set that this machine has.
    pub fn best() -> Self {
        Self::available()[0]
    }
}
