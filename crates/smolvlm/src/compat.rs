//! Which release of the Python reference to agree with, where releases differ.

/// A release of the reference implementation. The default is today's; the others are for comparing with older runs.
///
/// | what | default | `hf-5.23` | `hf-5.17` | `hf-4.57` | `pil` |
/// |---|---|---|---|---|---|
/// | picture resampling | torch uint8 Lanczos | same | torch uint8 bicubic (torchvision 0.26) | Pillow Lanczos | Pillow 13 Lanczos |
/// | frame resampling | torch uint8 Lanczos | same | torch uint8 bicubic | torch uint8 bicubic | torch uint8 Lanczos |
/// | EXIF orientation of files | applied | applied | ignored | applied | applied |
/// | alpha of decoded pictures | on white | on white | dropped | on white, before resizing | on white |
/// | 16-bit grey files | rounded to 8 bits | same | same | clipped at 255 | clipped at 255 |
/// | 16-bit colour files | rounded to 8 bits | same | same | high byte | high byte |
/// | printed time of a frame, variable-rate files | the stream's own | index ÷ average rate | same | same | as default |
/// | position ids (f32) | identity | identity | identity | off by one | identity |
/// | position ids (bf16, 27 or 6 patches a side) | identity | identity | library's table | library's table | identity |
///
/// `docs/compat.md` says what of this is verified, and where this engine differs from every release on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compat {
    /// transformers 5.23 with torchvision 0.29, except that variable-rate videos print the stream's own times.
    #[default]
    Newest,
    /// transformers 5.23.0, torchvision 0.29, torchcodec 0.17, to the letter.
    Hf523,
    /// transformers 5.17.0 with torchvision 0.26's torchvision backend.
    Hf517,
    /// transformers 4.57.6, its default (slow) image processor.
    Hf457,
    /// The Pillow image backend of transformers 5.x with Pillow 13.
    Pil,
}
