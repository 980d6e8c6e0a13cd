//! YUV → RGB.
//!
//! For 8 bits and 4:2:0 or 4:2:2, equal to swscale's unscaled converter on x86: chroma samples replicated, 16-bit fixed
//! point with floors (`libswscale/yuv2rgb.c: ff_yuv2rgb_c_init_tables`; the coefficients are `sws_getCoefficients`').
//! Everything else is converted at its full depth by the same equations and rounded once.

use super::picture::{Chroma, Colour, Picture, Planes};
use crate::media::Image;

/// What one unit of V adds to red, U to blue, U and V to green; in 1/65536.
struct Matrix {
    v_red: i32,
    u_blue: i32,
    u_green: i32,
    v_green: i32,
}

impl Matrix {
    const fn new(v_red: i32, u_blue: i32, u_green: i32, v_green: i32) -> Self {
        Self { v_red, u_blue, u_green: -u_green, v_green: -v_green }
    }

    /// By H.273's `MatrixCoefficients`; what is not in swscale's table counts as BT.601, as there.
    fn of(matrix: u8) -> Self {
        match matrix {
            0 | 1 => Self::new(117_489, 138_438, 13_975, 34_925),
            4 => Self::new(104_448, 132_798, 24_759, 53_109),
            7 => Self::new(117_579, 136_230, 16_907, 35_559),
            9 | 10 => Self::new(110_013, 140_363, 12_277, 42_626),
            _ => Self::new(104_597, 132_201, 25_675, 53_279),
        }
    }
}

/// A coefficient in the converter's 3.13 format.
fn fixed(coefficient: i32) -> i32 {
    ((i64::from(coefficient) * 8192 + 32768) >> 16) as i32
}

/// The converter of one colour space.
struct Converter {
    luma: i32,
    luma_offset: i32,
    v_red: i32,
    u_blue: i32,
    u_green: i32,
    v_green: i32,
}

impl Converter {
    fn new(colour: Colour) -> Self {
        let matrix = Matrix::of(colour.matrix);
        // Chroma spans 224 steps in limited range, 255 in full.
        let chroma = |c: i32| fixed(if colour.full_range { (i64::from(c) * 224 / 255) as i32 } else { c });
        let (luma, luma_offset) = if colour.full_range { (65_536, 0) } else { (65_536 * 255 / 219, 16) };
        Self {
            luma: fixed(luma),
            luma_offset,
            v_red: chroma(matrix.v_red),
            u_blue: chroma(matrix.u_blue),
            u_green: chroma(matrix.u_green),
            v_green: chroma(matrix.v_green),
        }
    }

    /// What a chroma sample adds to red, green and blue.
    fn chroma(&self, u: u8, v: u8) -> [i32; 3] {
        let (u, v) = (8 * i32::from(u) - 1024, 8 * i32::from(v) - 1024);
        let green = ((u * self.u_green) >> 16) + ((v * self.v_green) >> 16);
        [(v * self.v_red) >> 16, green, (u * self.u_blue) >> 16]
    }

    fn pixel(&self, y: u8, [red, green, blue]: [i32; 3]) -> [u8; 3] {
        let luma = (8 * (i32::from(y) - self.luma_offset) * self.luma) >> 16;
        [red, green, blue].map(|chroma| (luma + chroma).clamp(0, 255) as u8)
    }

    /// One row; `u` and `v` hold half as many samples as `y`, rounded up.
    fn row(&self, y: &[u8], u: &[u8], v: &[u8], rgb: &mut [u8]) {
        let pairs = y.chunks_exact(2).zip(u.iter().zip(v)).zip(rgb.chunks_exact_mut(6));
        for ((y, (&u, &v)), rgb) in pairs {
            let chroma = self.chroma(u, v);
            rgb[..3].copy_from_slice(&self.pixel(y[0], chroma));
            rgb[3..].copy_from_slice(&self.pixel(y[1], chroma));
        }
        if let (&[.., last], 1) = (y, y.len() % 2) {
            let at = y.len() / 2;
            rgb[y.len() * 3 - 3..].copy_from_slice(&self.pixel(last, self.chroma(u[at], v[at])));
        }
    }
}

/// The picture in RGB.
pub(super) fn to_rgb(picture: &Picture) -> Image {
    let rgb = match (&picture.planes, picture.chroma) {
        (Planes::Byte(planes), Chroma::Yuv420 | Chroma::Yuv422) => as_swscale(picture, planes),
        (Planes::Byte(planes), _) => at_full_depth(picture, planes),
        (Planes::Wide(planes), _) => at_full_depth(picture, planes),
    };
    Image { width: picture.width, height: picture.height, rgb }
}

fn as_swscale(picture: &Picture, [y, u, v]: &[Vec<u8>; 3]) -> Vec<u8> {
    let converter = Converter::new(picture.colour);
    let (width, height) = (picture.width, picture.height);
    let (_, down) = picture.chroma.shifts();
    let chroma_width = width.div_ceil(2);
    let mut rgb = vec![0; width * height * 3];
    let rows = y.chunks_exact(width).zip(rgb.chunks_exact_mut(width * 3));
    for (row, (y, rgb)) in rows.enumerate() {
        let at = (row >> down) * chroma_width;
        converter.row(y, &u[at..at + chroma_width], &v[at..at + chroma_width], rgb);
    }
    rgb
}

/// The equations of H.273 in floating point, for samples of one depth.
struct Exact {
    luma: f32,
    luma_offset: f32,
    chroma: f32,
    chroma_offset: f32,
    matrix: [f32; 4],
}

impl Exact {
    fn new(colour: Colour, depth: u32) -> Self {
        let Matrix { v_red, u_blue, u_green, v_green } = Matrix::of(colour.matrix);
        // The coefficients turn chroma of 224 steps into RGB of 255.
        let matrix =
            [v_red, u_blue, u_green, v_green].map(|coefficient| coefficient as f32 / 65536.0 * (224.0 / 255.0));
        let largest = ((1u32 << depth) - 1) as f32;
        let step = (1u32 << (depth - 8)) as f32;
        let chroma_offset = 128.0 * step;
        if colour.full_range {
            Self { luma: 255.0 / largest, luma_offset: 0.0, chroma: 255.0 / largest, chroma_offset, matrix }
        } else {
            let (luma, chroma) = (255.0 / (219.0 * step), 255.0 / (224.0 * step));
            Self { luma, luma_offset: 16.0 * step, chroma, chroma_offset, matrix }
        }
    }

    fn pixel(&self, y: f32, u: f32, v: f32) -> [u8; 3] {
        let y = (y - self.luma_offset) * self.luma;
        let (u, v) = ((u - self.chroma_offset) * self.chroma, (v - self.chroma_offset) * self.chroma);
        let [v_red, u_blue, u_green, v_green] = self.matrix;
        // A conversion from float to integer clips.
        [y + v_red * v, y + u_green * u + v_green * v, y + u_blue * u].map(|value| (value + 0.5) as u8)
    }
}

fn at_full_depth<S: Copy + Into<u32>>(picture: &Picture, [y, u, v]: &[Vec<S>; 3]) -> Vec<u8> {
    let exact = Exact::new(picture.colour, picture.depth);
    let (width, height) = (picture.width, picture.height);
    let (across, down) = picture.chroma.shifts();
    let chroma_width = width.div_ceil(1 << across);
    let is_rgb = picture.chroma == Chroma::Yuv444 && picture.colour.matrix == Colour::IDENTITY;
    let mut rgb = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        for column in 0..width {
            let luma: u32 = y[row * width + column].into();
            let chroma = |plane: &[S]| match picture.chroma {
                Chroma::Grey => exact.chroma_offset,
                _ => plane[(row >> down) * chroma_width + (column >> across)].into() as f32,
            };
            let (first, second) = (chroma(u), chroma(v));
            rgb.extend_from_slice(&if is_rgb {
                let level = |value: f32| ((value - exact.luma_offset) * exact.luma + 0.5) as u8;
                [level(second), level(luma as f32), level(first)]
            } else {
                exact.pixel(luma as f32, first, second)
            });
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_pixel(matrix: u8, full_range: bool, y: u8, u: u8, v: u8) -> [u8; 3] {
        let converter = Converter::new(Colour { matrix, full_range });
        converter.pixel(y, converter.chroma(u, v))
    }

    #[test]
    fn colours_equal_swscales() {
        // (matrix, full range), (Y, U, V), what sws_scale of FFmpeg 8 gives on x86-64.
        let table = [
            ((2, false), (81, 90, 240), [253, 0, 0]),
            ((2, false), (200, 30, 140), [233, 242, 16]),
            ((5, false), (17, 255, 0), [0, 55, 255]),
            ((1, false), (81, 90, 240), [255, 23, 0]),
            ((1, false), (200, 30, 140), [235, 227, 6]),
            ((1, true), (81, 90, 240), [255, 35, 10]),
            ((1, true), (200, 30, 140), [218, 212, 18]),
            ((1, true), (17, 255, 0), [0, 52, 252]),
            ((9, false), (200, 30, 140), [234, 224, 4]),
            ((7, false), (200, 30, 140), [235, 232, 10]),
            ((4, false), (17, 255, 0), [0, 56, 255]),
        ];
        for ((matrix, full_range), (y, u, v), rgb) in table {
            assert_eq!(one_pixel(matrix, full_range, y, u, v), rgb, "matrix {matrix}, {y} {u} {v}");
        }
    }

    #[test]
    fn chroma_is_replicated_and_an_odd_last_column_has_its_own() {
        let colour = Colour { matrix: Colour::UNSPECIFIED, full_range: true };
        let picture = Picture {
            width: 3,
            height: 2,
            depth: 8,
            planes: Planes::Byte([vec![10, 20, 30, 40, 50, 60], vec![128, 255], vec![128, 128]]),
            chroma: Chroma::Yuv420,
            colour,
        };
        let image = to_rgb(&picture);
        assert_eq!(image.rgb[..6], [10, 10, 10, 20, 20, 20]);
        assert_eq!(image.rgb[6..9], one_pixel(2, true, 30, 255, 128));
        assert_eq!(image.rgb[15..], one_pixel(2, true, 60, 255, 128));
    }

    #[test]
    fn deep_samples_are_converted_at_their_depth_and_rounded_once() {
        let picture = |depth: u32, full_range, samples: [u16; 3]| Picture {
            width: 1,
            height: 1,
            depth,
            planes: Planes::Wide(samples.map(|sample| vec![sample])),
            chroma: Chroma::Yuv444,
            colour: Colour { matrix: 1, full_range },
        };
        let rgb = |depth, full_range, samples| to_rgb(&picture(depth, full_range, samples)).rgb;
        assert_eq!(rgb(10, false, [64, 512, 512]), [0, 0, 0]);
        assert_eq!(rgb(10, false, [940, 512, 512]), [255, 255, 255]);
        // 219 steps of 4: one level of 10 bits is 0.29 of 8.
        assert_eq!(rgb(10, false, [66, 512, 512]), [1, 1, 1]);
        assert_eq!(rgb(12, true, [4095, 2048, 2048]), [255, 255, 255]);
        // BT.709's red: Y 63, Cb 102, Cr 240 in 8 bits. Green is 0.6.
        assert_eq!(rgb(10, false, [63 * 4, 102 * 4, 240 * 4]), [255, 1, 0]);
    }

    #[test]
    fn the_identity_matrix_means_planes_of_green_blue_and_red() {
        let colour = Colour { matrix: Colour::IDENTITY, full_range: true };
        let planes = Planes::Byte([vec![1], vec![2], vec![3]]);
        let picture = Picture { width: 1, height: 1, depth: 8, planes, chroma: Chroma::Yuv444, colour };
        assert_eq!(to_rgb(&picture).rgb, [3, 1, 2]);
    }
}
