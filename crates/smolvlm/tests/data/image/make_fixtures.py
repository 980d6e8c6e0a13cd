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


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def expected(data):
    with Image.open(io.BytesIO(data)) as image:
        pillow = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    try:
        torch = decode_image(data, mode="RGB").numpy().transpose(1, 2, 0)
    except ValueError:  # BMP and TIFF: Pillow's pixels stand in
        torch = pillow
    return {"torch": torch, "pillow": pillow}


jpegs()
others()
lines = []
for name, data in FILES.items():
    (HERE / name).write_bytes(data)
    for rules, pixels in expected(data).items():
        lines.append(f"{name} {rules} {pixels.shape[1]} {pixels.shape[0]} {fnv(pixels.tobytes()):016x}\n")
(HERE / "expected.txt").write_text("".join(lines))
