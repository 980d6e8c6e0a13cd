//! Descriptions of matrices for Hopper's tensor copy engine.

use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUtensorMap, CUtensorMapDataType};

use super::device::Device;

/// Rows and columns that are copied at a time: 64 numbers are the 128 bytes that a swizzle covers.
const BOX: u32 = 64;

/// As the driver fills it and the engine reads it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct TensorMap([u64; 16]);

impl TensorMap {
    /// bf16 numbers at `base` with `sizes`, innermost first and dense, copied in boxes of 64 × 64 with a 128-byte swizzle. A
    /// failure is kept by the device, which then starts nothing more.
    pub(super) fn of_bf16(device: &Device, base: u64, sizes: &[usize]) -> Self {
        Self::in_boxes(device, base, sizes, BOX)
    }

    /// The same in boxes of `rows` rows of 64 numbers.
    pub(super) fn in_boxes(device: &Device, base: u64, sizes: &[usize], rows: u32) -> Self {
        let rank = sizes.len();
        let mut dimensions = [1_u64; 3];
        dimensions.iter_mut().zip(sizes).for_each(|(dimension, size)| *dimension = *size as u64);
        let mut strides = [0_u64; 2];
        let mut bytes = 2;
        for (stride, size) in strides.iter_mut().zip(sizes) {
            bytes *= *size as u64;
            *stride = bytes;
        }
        let (boxes, steps) = ([BOX, rows, 1], [1_u32; 3]);
        let mut map = MaybeUninit::<Self>::zeroed();
        // Safety: the arrays have `rank` numbers or more; the map has the driver's size and alignment.
        let encoded = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr().cast::<CUtensorMap>(),
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                rank as u32,
                base as *mut _,
                dimensions.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
        };
        device.check("describing a matrix", encoded);
        // Safety: zeroed or filled.
        unsafe { map.assume_init() }
    }
}

const _: () = assert!(size_of::<TensorMap>() == size_of::<CUtensorMap>());
