"""Writes the pictures beside this script and `expected.txt`: for each file and set of rules its upright size and the
FNV-1a hash of its RGB bytes, as the Python reference decodes it.

Needs pillow, torch, torchcodec (`torch` rules), and libjpeg-turbo's `cjpeg` on PATH. Run: python make_fixtures.py
"""

import io
import pathlib
import struct
import subprocess
import zlib

import numpy as np
from PIL import Image, ImageOps
from torchcodec.decoders import decode_image

HERE = pathlib.Path(__file__).parent
FILES = {}


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([128 + 120 * np.sin(x / 7 + y / 11 + c) for c in range(3)], -1)
    return np.clip(waves + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def alpha(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return ((x * 9 + y * 5) % 256).astype(np.uint8)[..., None]


def save(name, image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    FILES[name] = buffer.getvalue()


def cjpeg(name, pixels, *options):
    height, width = pixels.shape[:2]
    ppm = b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()
    FILES[name] = subprocess.run(["cjpeg", *options], input=ppm, capture_output=True, check=True).stdout


def png16(name, samples, color_type):
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + samples[y].astype(">u2").tobytes() for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    FILES[name] = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpegs():
    rgb = lambda w, h, seed=0: Image.fromarray(picture(w, h, seed))
    save("baseline-420.jpg", rgb(37, 29), "JPEG", quality=80)
    save("baseline-422.jpg", rgb(35, 18), "JPEG", quality=90, subsampling=1)
    save("baseline-444.jpg", rgb(19, 23), "JPEG", quality=100, subsampling=0)
    save("narrow-420.jpg", rgb(3, 40), "JPEG", quality=60)
    save("coarse.jpg", rgb(33, 47), "JPEG", quality=5)
    save("restarts.jpg", rgb(50, 40), "JPEG", quality=70, restart_marker_blocks=3)
    save("progressive-420.jpg", rgb(41, 33), "JPEG", quality=75, progressive=True)
    save("progressive-restarts.jpg", rgb(33, 31), "JPEG", quality=75, progressive=True, restart_marker_rows=1)
    save("grey.jpg", rgb(21, 22).convert("L"), "JPEG", quality=75)
    save("rgb.jpg", rgb(21, 22), "JPEG", quality=75, keep_rgb=True)
    cmyk = np.concatenate([picture(23, 17), picture(23, 17, 1)[..., :1]], -1)
    save("cmyk.jpg", Image.fromarray(cmyk, "CMYK"), "JPEG", quality=85)
    cjpeg("sampling-440.jpg", picture(30, 35), "-sample", "1x2")
    cjpeg("sampling-411.jpg", picture(45, 20), "-sample", "4x1")
    cjpeg("sampling-mixed.jpg", picture(39, 43), "-sample", "2x2,2x1,1x2", "-progressive")
    (HERE / "scans.txt").write_text("0;\n1 2;\n")
    cjpeg("sequential-scans.jpg", picture(37, 21), "-sample", "2x1", "-scans", str(HERE / "scans.txt"))
    (HERE / "scans.txt").unlink()
    exif = Image.Exif()
    exif[0x112] = 6
    save("orientation-6.jpg", rgb(40, 20), "JPEG", exif=exif)
    FILES["early-end.jpg"] = FILES["baseline-420.jpg"][:-150] + b"\xff\xd9"
    broken = bytearray(FILES["restarts.jpg"])
    for position in range(len(broken) - 400, len(broken) - 50, 40):
        broken[position] ^= 0x24
    FILES["broken-restarts.jpg"] = bytes(broken)


def others():
    rgba = np.concatenate([picture(15, 11), alpha(15, 11)], -1)
    save("rgba.png", Image.fromarray(rgba, "RGBA"), "PNG")
    save("palette-transparent.png", Image.fromarray(picture(15, 11)).quantize(8), "PNG", transparency=2)
    png16("rgb16.png", np.random.default_rng(1).integers(0, 65536, (7, 9, 3)), 2)
    png16("grey16.png", np.random.default_rng(2).integers(0, 65536, (7, 9, 1)), 0)
    save("transparent.gif", Image.fromarray(picture(15, 11)).quantize(8), "GIF", transparency=2, background=1)
    save("lossy.webp", Image.fromarray(picture(33, 21)), "WEBP", quality=60)
    save("lossless-rgba.webp", Image.fromarray(rgba, "RGBA"), "WEBP", lossless=True)
    save("rgb.bmp", Image.fromarray(picture(13, 9)), "BMP")
    exif = Image.Exif()
    exif[0x112] = 8
    save("orientation-8.tiff", Image.fromarray(picture(13, 9)), "TIFF", exif=exif, compression="tiff_lzw")
    exif[0x112] = 5
    save("orientation-5.webp", Image.fromarray(picture(13, 9)), "WEBP", exif=exif, lossless=True)


def packed(depth, width, height):
    """Rows of random samples of `depth` bits, most significant first."""
    samples = np.random.default_rng(depth).integers(0, 1 << depth, (height, width, 1))
    return np.packbits((samples >> np.arange(depth)[::-1] & 1).reshape(height, -1).astype(np.uint8), axis=1)


def png_palette(name, depth, transparency=b""):
    colours = np.random.default_rng(9).integers(0, 256, 3 << depth).astype(np.uint8).tobytes()
    rows = b"".join(b"\0" + row.tobytes() for row in packed(depth, 13, 7))
    header = struct.pack(">IIBBBBB", 13, 7, depth, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", colours), (b"tRNS", transparency), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts if d or k == b"IEND")
    FILES[name] = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bmp16(name, masks):
    rows = np.random.default_rng(3).integers(0, 256, 28 * 7).astype(np.uint8).tobytes()
    fields = struct.pack("<IiiHHIIiiII", 40, 13, 7, 1, 16, 3 if masks else 0, len(rows), 2835, 2835, 0, 0)
    body = fields + b"".join(struct.pack("<I", mask) for mask in masks)
    FILES[name] = b"BM" + struct.pack("<IHHI", 14 + len(body) + len(rows), 0, 0, 14 + len(body)) + body + rows


def kinds():
    """What is rarer: few bits, inks, palettes, animations, one pixel across."""
    rgb, rgba = Image.fromarray(picture(23, 17)), np.concatenate([picture(23, 17), alpha(23, 17)], -1)
    inks = Image.fromarray(rgba, "CMYK")
    exif = Image.Exif()
    exif[0x112] = 6
    png_palette("palette-1.png", 1)
    png_palette("palette-2-transparent.png", 2, bytes([0, 100]))
    png_palette("palette-4.png", 4)
    grey = np.random.default_rng(2).integers(0, 65536, (7, 9, 1))
    png16("grey16-transparent.png", grey, 0)
    cut = FILES["grey16-transparent.png"].index(b"IDAT") - 4
    key = b"tRNS" + struct.pack(">H", int(grey[0, 0, 0]))
    whole = FILES["grey16-transparent.png"]
    FILES["grey16-transparent.png"] = whole[:cut] + struct.pack(">I", 2) + key + struct.pack(">I", zlib.crc32(key)) + whole[cut:]
    png16("rgba16.png", np.random.default_rng(4).integers(0, 65536, (7, 9, 4)), 6)
    save("orientation-6.png", rgb, "PNG", exif=exif)
    more = dict(save_all=True, duration=100, append_images=[Image.fromarray(picture(23, 17, seed)) for seed in (1, 2)])
    save("animated.png", rgb, "PNG", **more)
    save("animated-apart.png", rgb, "PNG", default_image=True, **more)
    save("animated.webp", rgb, "WEBP", quality=50, **more)
    save("animated-orientation-6.webp", rgb, "WEBP", exif=exif, lossless=True, **more)
    save("animated.gif", rgb, "GIF", **more)
    bmp16("555.bmp", [])
    bmp16("565.bmp", [0xF800, 0x7E0, 0x1F])
    save("grey.bmp", rgb.convert("L"), "BMP")
    save("inks.tiff", inks, "TIFF", compression="tiff_lzw")
    save("palette.tiff", rgb.quantize(32), "TIFF", compression="packbits")
    save("black-and-white.tiff", rgb.convert("1"), "TIFF", compression="group4")
    save("cmyk-420.jpg", inks, "JPEG", subsampling=2)
    # Adobe's marker with its last byte, the transform, changed from "none" to YCCK.
    whole = FILES["cmyk-420.jpg"]
    at = whole.index(b"Adobe") + 11
    FILES["ycck-420.jpg"] = whole[:at] + b"\2" + whole[at + 1 :]
    save("one-pixel.jpg", rgb.crop((0, 0, 1, 1)), "JPEG")
    save("one-column.jpg", rgb.crop((0, 0, 1, 17)), "JPEG", progressive=True)
    save("one-row.webp", rgb.crop((0, 0, 23, 1)), "WEBP")


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def expected(data):
    with Image.open(io.BytesIO(data)) as image:
        pillow = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    try:
        torch = decode_image(data, mode="RGB").numpy()
        # Every frame of an animation; the reference takes the first.
        torch = (torch[0] if torch.ndim == 4 else torch).transpose(1, 2, 0)
    except ValueError:  # BMP and TIFF: Pillow's pixels stand in
        torch = pillow
    return {"torch": torch, "pillow": pillow}


jpegs()
others()
kinds()
lines = []
for name, data in FILES.items():
    (HERE / name).write_bytes(data)
    for rules, pixels in expected(data).items():
        lines.append(f"{name} {rules} {pixels.shape[1]} {pixels.shape[0]} {fnv(pixels.tobytes()):016x}\n")
(HERE / "expected.txt").write_text("".join(lines))
