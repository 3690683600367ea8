"""Encode PNG files by hand, with right checksums whatever they hold."""

import struct
import zlib

import numpy as np

HEADER = ">IIBBBBB"  # width, height, bits, colour type, compression, filter, interlaced


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, color: int, rows: bytes, interlaced: int = 0) -> bytes:
    """Return a file of filtered rows; `color`: 0 grey, 2 RGB, 3 palette, 4 grey with alpha."""
    header = chunk(b"IHDR", struct.pack(HEADER, width, height, bits, color, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(range(48)) * 16) if color == 3 else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + palette + data + chunk(b"IEND", b"")


def png_of(values: np.ndarray, bits: int, color: int = 0) -> bytes:
    """Return a file of (H, W) or (H, W, C) values in a depth that Pillow may not write."""
    height, width = values.shape[:2]
    if bits == 16:
        packed = values.astype(">u2")
    else:
        single = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(single.reshape(height, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return png(width, height, bits, color, rows)
