//! Keys and values in pages on the device.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;

use super::device::Device;
use super::memory::GrowingRange;
use super::plan::next_id;
use super::tensor::Element;
use crate::backend::{CacheShape, PAGE_TOKENS};

/// Pages lie one after another, each with all layers: `[pages, layers, keys and values, kv_heads, 64, d]`. The first page
/// belongs to no sequence.
pub struct Cache {
    range: GrowingRange,
    /// Tells caches apart.
    pub(super) id: u64,
    pub(super) shape: CacheShape,
    pub(super) element: Element,
}

impl Cache {
    pub(super) fn new(device: &Arc<Device>, shape: CacheShape) -> Self {
        let element = Element::of(shape.format);
        let page = shape.layers as u64 * layer_numbers(&shape) * element.bytes() as u64;
        Self { range: GrowingRange::reserve(device, page * (shape.pages as u64 + 1)), id: next_id(), shape, element }
    }

    /// Gives the first `pages` pages memory; they keep it, since every step may use them again.
    pub(super) fn grow(&mut self, pages: usize) -> super::device::Result<()> {
        self.range.grow(pages as u64 * self.page_numbers() * self.element.bytes() as u64)
    }

    /// Numbers from one page to the next.
    pub(super) fn page_numbers(&self) -> u64 {
        self.shape.layers as u64 * self.layer_numbers()
    }

    /// Numbers from one layer of a page to the next.
    pub(super) fn layer_numbers(&self) -> u64 {
        layer_numbers(&self.shape)
    }

    /// A layer of the first page.
    pub(super) fn layer(&self, layer: usize) -> CUdeviceptr {
        self.range.base() + layer as u64 * self.layer_numbers() * self.element.bytes() as u64
    }
}

fn layer_numbers(shape: &CacheShape) -> u64 {
    (2 * shape.kv_heads * PAGE_TOKENS * shape.head_dim) as u64
}
