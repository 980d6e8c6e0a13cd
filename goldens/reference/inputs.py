"""Procedural pictures and videos: integer arithmetic, so that the same seed of nothing gives the same files."""

from pathlib import Path

import numpy as np
from PIL import Image

PNG_SIZES = {  # name: (width, height)
    "land_97x61": (97, 61), "port_61x97": (61, 97), "wide_200x37": (200, 37), "tall_13x160": (13, 160),
    "square_48": (48, 48), "large_150x114": (150, 114), "thin_3x90": (3, 90),
}


def pattern(width: int, height: int, k: int = 0) -> np.ndarray:
    """Gradients, a checkerboard, fine texture, a disc and noise. u8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    red = (x * 255 // max(width - 1, 1) + 13 * k) % 256
    green = (y * 255 // max(height - 1, 1) + ((x // 5 + y // 7 + k) % 2) * 60) % 256
    blue = ((x ^ y) * 9 + (x * y) // 11 + 29 * k) % 256
    image = np.stack([red, green, blue], -1)
    disc = ((x - width // 3 - 2 * k) ** 2 + (y - height // 2) ** 2) * 16 < min(width, height) ** 2
    image[disc] = [230, 40 + 3 * (k % 40), 60]
    noise = np.random.default_rng([width, height, k]).integers(-12, 13, size=image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def smooth(width: int, height: int, k: int = 0) -> np.ndarray:
    """Gradients, a checkerboard and a disc, no noise: what a video codec keeps small. u8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    image = np.stack([
        (x * 255 // (width - 1) + 5 * k) % 256,
        (y * 200 // (height - 1) + ((x // 8 + y // 8 + k // 4) % 2) * 50) % 256,
        ((x + y) * 2 + 7 * k) % 256,
    ], -1)
    image[((x - width // 3 - k) ** 2 + (y - height // 2) ** 2) * 16 < min(width, height) ** 2] = [230, 60, 40]
    return image.astype(np.uint8)


def write_inputs(folder: Path) -> None:
    """Every picture and video of the cases, and some more formats for `extras/images.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, (name, (width, height)) in enumerate(PNG_SIZES.items()):
        Image.fromarray(pattern(width, height, k)).save(folder / f"{name}.png")
    _write_other_pngs(folder)
    _write_jpegs(folder)
    _write_other_formats(folder)
    write_video(folder / "short_64x48_10fps_5s.mp4", 64, 48, frames=50, fps=10)
    write_video(folder / "long_48x64_8fps_12s_bt709.mp4", 48, 64, frames=96, fps=8, bt709=True)


def _write_other_pngs(folder: Path) -> None:
    alpha = (np.mgrid[0:50, 0:70][1] * 255 // 69).astype(np.uint8)
    Image.fromarray(np.dstack([pattern(70, 50, 11), alpha])).save(folder / "rgba_70x50.png")
    grey = pattern(50, 70, 12)[..., 1]
    Image.fromarray(grey).save(folder / "grey_50x70.png")
    Image.fromarray(np.dstack([grey, np.ascontiguousarray(alpha.T)])).save(folder / "grey_alpha_50x70.png")
    palette = Image.fromarray(pattern(60, 44, 13)).quantize(24, dither=Image.Dither.NONE)
    palette.save(folder / "palette_60x44.png")
    palette.save(folder / "palette_transparent_60x44.png", transparency=3)
    wide = np.random.default_rng(5).integers(0, 65536, (21, 30)).astype(np.uint16)
    Image.fromarray(wide).save(folder / "grey16_30x21.png")


def _write_jpegs(folder: Path) -> None:
    photo = Image.fromarray(pattern(101, 67, 14))
    photo.save(folder / "photo_420_101x67.jpg", quality=90, subsampling="4:2:0")
    photo.save(folder / "photo_422_101x67.jpg", quality=80, subsampling="4:2:2")
    photo.save(folder / "photo_444_101x67.jpg", quality=75, subsampling="4:4:4")
    photo.save(folder / "progressive_101x67.jpg", quality=80, progressive=True)
    photo.convert("L").save(folder / "grey_101x67.jpg", quality=85)
    photo.resize((40, 30)).convert("CMYK").save(folder / "cmyk_40x30.jpg", quality=80)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = "exif6_80x50.jpg" if orientation == 6 else f"exif{orientation}_32x20.jpg"
        width, height = (80, 50) if orientation == 6 else (32, 20)
        Image.fromarray(pattern(width, height, 15)).save(folder / name, quality=88, exif=exif)


def _write_other_formats(folder: Path) -> None:
    image = Image.fromarray(pattern(46, 34, 16))
    image.save(folder / "lossy_46x34.webp", quality=80)
    image.save(folder / "lossless_46x34.webp", lossless=True)
    image.quantize(32, dither=Image.Dither.NONE).save(folder / "palette_46x34.gif")


def write_video(path: Path, width: int, height: int, frames: int, fps: int, bt709: bool = False) -> None:
    """H.264 4:2:0 in mp4, two B-frames between references. Untagged colour, or BT.709 limited range."""
    import av

    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 24
        steady = "threads=1:no-mbtree=1:weightp=0"  # with these, x264 gives the same bytes on every run
        colour = ":colormatrix=bt709:colorprim=bt709:transfer=bt709" if bt709 else ""
        stream.options = {"crf": "24", "preset": "medium", "x264-params": f"bframes=2:b-adapt=0:{steady}{colour}"}
        for k in range(frames):
            planes = av.VideoFrame.from_ndarray(smooth(width, height, k), format="rgb24").to_ndarray(format="yuv420p")
            for packet in stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
