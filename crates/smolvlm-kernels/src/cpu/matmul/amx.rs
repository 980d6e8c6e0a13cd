//! Tile products on AMX: 32 rows × 32 outputs in four accumulators of 16 × 16, or 16 rows of two panels.
//!
//! The instructions are written as text: their intrinsics are not stable. Results are those of one accumulator that
//! runs along the inputs, whatever the number of rows: with few rows the others are computed too, and not used.

use std::arch::asm;
use std::sync::OnceLock;

use super::{CHUNK, Kernel, PANEL, Product, STEP, TileKernels, avx512};

/// Bytes of a step of a panel, and of a row of a tile.
const PANEL_STEP: usize = PANEL * STEP;
/// Rows of a register, and steps in one.
const REGISTER_ROWS: usize = 16;
/// Panels that few rows meet at a time.
const FEW_PANELS: usize = 2;
/// 16 KiB of a panel.
const CHUNKS: usize = 8;
/// `arch_prctl` that asks for a state component, and the component of AMX's data.
const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
const XFEATURE_XTILEDATA: i64 = 18;

/// Whether this machine has AMX with bfloat16 and 8-bit integers and the system grants it. Asked for once: the grant is the
/// whole process's.
pub(super) fn allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        if features & (BF16 | TILES | INT8) != BF16 | TILES | INT8 {
            return false;
        }
        // SAFETY: this call only asks; it touches no memory of ours.
        let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
        answer == 0
    })
}

/// `others` with the products that AMX has.
pub(super) fn kernels(others: TileKernels) -> TileKernels {
    let kernel = |multiply| Kernel {
        rows: 2 * REGISTER_ROWS,
        row_step: REGISTER_ROWS,
        few_rows: REGISTER_ROWS,
        few_panels: FEW_PANELS,
        chunks: CHUNKS,
        multiply,
    };
    TileKernels {
        bf16: kernel(bf16::multiply),
        u8i8: Kernel { few_panels: others.u8i8.few_panels, ..kernel(u8i8_or_vectors) },
        enter: configure,
        leave: release,
        ..others
    }
}

/// A few rows of integers are faster in vectors, and sums of integers are the same in any order.
///
/// # Safety
/// As [`u8i8::multiply`].
unsafe fn u8i8_or_vectors(product: &Product) {
    // SAFETY: the caller's promise; whoever has AMX has these vectors.
    unsafe {
        if product.row_count <= avx512::FEW_ROWS {
            avx512::u8i8::multiply(product);
        } else {
            product.by_panels(FEW_PANELS, |product| u8i8::multiply(product));
        }
    }
}

/// The layout of all eight registers: 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        row_bytes[register] = CHUNK as u16;
        rows[register] = REGISTER_ROWS as u8;
        register += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// # Safety
/// AMX is [`allowed`].
unsafe fn configure() {
    // SAFETY: the operand is 64 bytes that describe a layout the machine has.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) }
}

/// # Safety
/// AMX is [`allowed`].
unsafe fn release() {
    // SAFETY: gives up registers that nobody else uses.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Stamps the kernel for one kind of product.
macro_rules! stamp {
    ($module:ident, $dot:literal) => {
        mod $module {
            use super::*;

            /// # Safety
            /// AMX is allowed and configured on this thread, and the product's addresses hold what they promise, rows
            /// in groups of 16.
            pub(super) unsafe fn multiply(product: &Product) {
                // SAFETY: the caller's promise.
                unsafe {
                    match (product.row_count > REGISTER_ROWS, product.panel_count) {
                        (true, 1) => tall(product),
                        (false, 1) => one(product),
                        (false, 2) => two(product),
                        (_, panels) => unreachable!("a product of {} rows and {panels} panels", product.row_count),
                    }
                }
            }

            /// Rows 17 to 32 too: each register that is loaded is used twice.
            unsafe fn tall(product: &Product) {
                // SAFETY: as in `multiply`. Registers 0 to 3 are (rows 0–15, outputs 0–15), (0–15, 16–31), (16–31,
                // 0–15), (16–31, 16–31).
                unsafe {
                    let lower = product.rows.add(REGISTER_ROWS * product.row_stride);
                    let sums = product.tiles.cast::<u8>();
                    start(product.add, sums, sums.add(CHUNK), sums.add(16 * PANEL_STEP), sums.add(16 * PANEL_STEP + CHUNK));
                    asm!(
                        "2:",
                        "tileloadd tmm6, [{w} + {panel_step} * 1]",
                        "tileloadd tmm4, [{upper} + {stride} * 1]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{w} + {panel_step} * 1 + 64]",
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{lower} + {stride} * 1]",
                        concat!($dot, " tmm2, tmm5, tmm6"),
                        concat!($dot, " tmm3, tmm5, tmm7"),
                        "add {upper}, 64",
                        "add {lower}, 64",
                        "add {w}, 2048",
                        "dec {chunks}",
                        "jnz 2b",
                        w = inout(reg) product.panels => _,
                        upper = inout(reg) product.rows => _,
                        lower = inout(reg) lower => _,
                        chunks = inout(reg) product.steps / REGISTER_ROWS => _,
                        stride = in(reg) product.row_stride,
                        panel_step = in(reg) PANEL_STEP,
                        options(nostack)
                    );
                    finish(sums, sums.add(CHUNK), sums.add(16 * PANEL_STEP), sums.add(16 * PANEL_STEP + CHUNK));
                }
            }

            /// Up to 16 rows of two panels.
            unsafe fn two(product: &Product) {
                // SAFETY: as in `multiply`. Registers 0 and 1 are the first panel's outputs, 2 and 3 the second's.
                unsafe {
                    let second = product.panels.add(product.panel_stride);
                    let sums = product.tiles.cast::<u8>();
                    let others = product.tiles.add(1).cast::<u8>();
                    start(product.add, sums, sums.add(CHUNK), others, others.add(CHUNK));
                    asm!(
                        "2:",
                        "tileloadd tmm4, [{x} + {stride} * 1]",
                        "tileloadd tmm5, [{w} + {panel_step} * 1]",
                        concat!($dot, " tmm0, tmm4, tmm5"),
                        "tileloadd tmm6, [{w} + {panel_step} * 1 + 64]",
                        concat!($dot, " tmm1, tmm4, tmm6"),
                        "tileloadd tmm7, [{second} + {panel_step} * 1]",
                        concat!($dot, " tmm2, tmm4, tmm7"),
                        "tileloadd tmm5, [{second} + {panel_step} * 1 + 64]",
                        concat!($dot, " tmm3, tmm4, tmm5"),
                        "add {x}, 64",
                        "add {w}, 2048",
                        "add {second}, 2048",
                        "dec {chunks}",
                        "jnz 2b",
                        w = inout(reg) product.panels => _,
                        second = inout(reg) second => _,
                        x = inout(reg) product.rows => _,
                        chunks = inout(reg) product.steps / REGISTER_ROWS => _,
                        stride = in(reg) product.row_stride,
                        panel_step = in(reg) PANEL_STEP,
                        options(nostack)
                    );
                    finish(sums, sums.add(CHUNK), others, others.add(CHUNK));
                }
            }

            /// Up to 16 rows of one panel.
            unsafe fn one(product: &Product) {
                // SAFETY: as in `multiply`.
                unsafe {
                    let sums = product.tiles.cast::<u8>();
                    start(product.add, sums, sums.add(CHUNK), sums, sums);
                    asm!(
                        "2:",
                        "tileloadd tmm4, [{x} + {stride} * 1]",
                        "tileloadd tmm5, [{w} + {panel_step} * 1]",
                        concat!($dot, " tmm0, tmm4, tmm5"),
                        "tileloadd tmm6, [{w} + {panel_step} * 1 + 64]",
                        concat!($dot, " tmm1, tmm4, tmm6"),
                        "add {x}, 64",
                        "add {w}, 2048",
                        "dec {chunks}",
                        "jnz 2b",
                        w = inout(reg) product.panels => _,
                        x = inout(reg) product.rows => _,
                        chunks = inout(reg) product.steps / REGISTER_ROWS => _,
                        stride = in(reg) product.row_stride,
                        panel_step = in(reg) PANEL_STEP,
                        options(nostack)
                    );
                    asm!(
                        "tilestored [{first} + {step} * 1], tmm0",
                        "tilestored [{second} + {step} * 1], tmm1",
                        first = in(reg) sums,
                        second = in(reg) sums.add(CHUNK),
                        step = in(reg) PANEL_STEP,
                        options(nostack)
                    );
                }
            }
        }
    };
}

stamp!(bf16, "tdpbf16ps");
stamp!(u8i8, "tdpbusd");

/// Registers 0 to 3: zeros, or what the tiles hold.
///
/// # Safety
/// AMX is configured; each address has 16 rows of 64 bytes, 128 bytes apart.
#[inline(always)]
unsafe fn start(add: bool, first: *const u8, second: *const u8, third: *const u8, fourth: *const u8) {
    // SAFETY: the caller's promise.
    unsafe {
        if add {
            asm!(
                "tileloadd tmm0, [{first} + {step} * 1]",
                "tileloadd tmm1, [{second} + {step} * 1]",
                "tileloadd tmm2, [{third} + {step} * 1]",
                "tileloadd tmm3, [{fourth} + {step} * 1]",
                first = in(reg) first,
                second = in(reg) second,
                third = in(reg) third,
                fourth = in(reg) fourth,
                step = in(reg) PANEL_STEP,
                options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
    }
}

/// Writes registers 0 to 3.
///
/// # Safety
/// As [`start`].
#[inline(always)]
unsafe fn finish(first: *mut u8, second: *mut u8, third: *mut u8, fourth: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{first} + {step} * 1], tmm0",
            "tilestored [{second} + {step} * 1], tmm1",
            "tilestored [{third} + {step} * 1], tmm2",
            "tilestored [{fourth} + {step} * 1], tmm3",
            first = in(reg) first,
            second = in(reg) second,
            third = in(reg) third,
            fourth = in(reg) fourth,
            step = in(reg) PANEL_STEP,
            options(nostack)
        );
    }
}
