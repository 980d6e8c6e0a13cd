//! How large a picture becomes, and into how many tiles it is cut.
//!
//! All size arithmetic is IEEE double with truncation, as in the reference's `image_processing_smolvlm.py`.

/// No resized picture is longer than this (`MAX_IMAGE_SIZE` in the reference).
pub const MAX_IMAGE_SIZE: usize = 4096;

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
}

impl Size {
    /// A size in pixels.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }

    /// A square of this side.
    pub const fn square(side: usize) -> Self {
        Self::new(side, side)
    }

    fn aspect(self) -> f64 {
        self.width as f64 / self.height as f64
    }

    fn is_landscape(self) -> bool {
        self.width >= self.height
    }
}

/// The size after the first resize: the longer side becomes `edge` (also when that enlarges), the shorter one follows and
/// is made even by adding one; then neither side may exceed [`MAX_IMAGE_SIZE`].
///
/// `_resize_output_size_rescale_to_max_len`, then `_resize_output_size_scale_below_upper_bound`. No side of `source` may
/// be zero.
pub fn fit_longest_edge(source: Size, edge: usize) -> Size {
    let fitted = if source.is_landscape() {
        Size::new(edge, next_even(truncated_quotient(edge, source.aspect())))
    } else {
        Size::new(next_even(truncated_product(edge, source.aspect())), edge)
    };
    below_upper_bound(Size::new(fitted.width.max(1), fitted.height.max(1)))
}

/// The size of a video frame after its first resize: as for images, with the edge itself bounded.
///
/// `get_resize_output_image_size` of `video_processing_smolvlm.py`.
pub fn fit_frame(source: Size, edge: usize) -> Size {
    fit_longest_edge(source, edge.min(MAX_IMAGE_SIZE))
}

/// The size after the second resize: both sides are multiples of `tile`, at the price of some stretching.
///
/// `resize_for_vision_encoder`.
pub fn fit_tiles(fitted: Size, tile: usize) -> Size {
    let whole_tiles = |length: usize| length.div_ceil(tile).max(1) * tile;
    if fitted.is_landscape() {
        let width = whole_tiles(fitted.width);
        Size::new(width, whole_tiles(truncated_quotient(width, fitted.aspect())))
    } else {
        let height = whole_tiles(fitted.height);
        Size::new(whole_tiles(truncated_product(height, fitted.aspect())), height)
    }
}

fn below_upper_bound(size: Size) -> Size {
    let bounded = if size.is_landscape() && size.width > MAX_IMAGE_SIZE {
        Size::new(MAX_IMAGE_SIZE, truncated_quotient(MAX_IMAGE_SIZE, size.aspect()))
    } else if !size.is_landscape() && size.height > MAX_IMAGE_SIZE {
        Size::new(truncated_product(MAX_IMAGE_SIZE, size.aspect()), MAX_IMAGE_SIZE)
    } else {
        size
    };
    Size::new(bounded.width.max(1), bounded.height.max(1))
}

fn next_even(length: usize) -> usize {
    length + length % 2
}

fn truncated_quotient(length: usize, aspect: f64) -> usize {
    (length as f64 / aspect) as usize
}

fn truncated_product(length: usize, aspect: f64) -> usize {
    (length as f64 * aspect) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_picture_is_enlarged_to_the_longest_edge() {
        assert_eq!(fit_longest_edge(Size::new(64, 48), 2048), Size::new(2048, 1536));
    }

    #[test]
    fn only_the_shorter_side_is_made_even_and_only_upward() {
        assert_eq!(fit_longest_edge(Size::new(61, 97), 2048), Size::new(1288, 2048)); // 1287.9 → 1287 → 1288
        assert_eq!(fit_longest_edge(Size::new(100, 50), 333), Size::new(333, 166)); // the longer side stays odd
    }

    #[test]
    fn the_upper_bound_holds_without_an_even_adjustment() {
        assert_eq!(fit_longest_edge(Size::new(4000, 2998), 8000), Size::new(4096, 3069));
    }

    #[test]
    fn tiles_stretch_the_shorter_side_up() {
        assert_eq!(fit_tiles(Size::new(2048, 1152), 512), Size::new(2048, 1536));
        assert_eq!(fit_tiles(Size::new(2048, 1), 512), Size::new(2048, 512));
    }

    #[test]
    fn a_frame_never_exceeds_the_upper_bound() {
        assert_eq!(fit_frame(Size::new(640, 480), 9000), Size::new(4096, 3072));
    }
}
