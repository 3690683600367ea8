"""Random numbers and noise from integer arithmetic alone.

NumPy promises the same stream of `Generator` distributions for one version only, and a libm may
round the last bit its own way. Everything here is wrap-around integer arithmetic, so a seed gives
the same numbers with any NumPy, on any processor.
"""

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")

TILE = 512  # side of a noise tile in texels; a power of two, so that `& (TILE - 1)` wraps around
_MASK64 = (1 << 64) - 1


def _mix64(x: int) -> int:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection that scatters 64 bits."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


class Stream:
    """A stream of random integers that is a function of its keys alone.

    Args:
        *keys: integers, e.g. seed, index, a number for the part of the scene; order matters.
    """

    def __init__(self, *keys: int):
        state = 0x2545F4914F6CDD1D
        for key in keys:
            state = _mix64((state ^ (key & _MASK64)) + 0x9E3779B97F4A7C15 & _MASK64)
        self._state = state

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK64
        return ((_mix64(self._state) >> 32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.below(100) < percent

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each as likely."""
        return options[self.below(len(options))]


def hash_grid(height: int, width: int, seed: int) -> np.ndarray:
    """White noise: a hash of (seed, row, column).

    Args:
        height, width: size in pixels.
        seed: any integer.

    Returns:
        uint32 array (height, width), uniform over all 32 bits.
    """
    rows = np.arange(height, dtype=np.uint32)[:, None] * np.uint32(0x9E3779B1)
    columns = np.arange(width, dtype=np.uint32)[None, :] * np.uint32(0x85EBCA77)
    return scatter(rows + columns + np.array([seed & 0xFFFFFFFF], dtype=np.uint32))


def scatter(x: np.ndarray) -> np.ndarray:
    """Hash a uint32 array element by element (the xor-shift-multiply form of MurmurHash3's end)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _value_noise(cell: int, seed: int) -> np.ndarray:
    """One octave: random values at a lattice of `cell` texels, smoothly interpolated, periodic."""
    count = TILE // cell
    lattice = (hash_grid(count, count, seed) >> np.uint32(24)).astype(np.int32)
    t = (np.arange(cell, dtype=np.int32) * 256) // cell
    t = (t * t * (768 - 2 * t)) >> 16  # smoothstep 3t^2 - 2t^3 in 1/256

    def stretch(values: np.ndarray) -> np.ndarray:
        step = np.roll(values, -1, axis=0) - values
        return (values[:, None] * 256 + step[:, None] * t[None, :, None]).reshape(TILE, -1) >> 8

    return stretch(stretch(lattice).T).T


@cache
def noise_tile(coarsest: int, octaves: int, seed: int = 0) -> np.ndarray:
    """Periodic fractal noise, each octave half the size and half the height of the one before.

    Args:
        coarsest: cell of the first octave in texels, a power of two.
        octaves: how many octaves; cells never get smaller than one texel.
        seed: any integer.

    Returns:
        Read-only int16 array (TILE, TILE), mean near 0, within [-128, 127].
    """
    total = np.zeros((TILE, TILE), dtype=np.int32)
    weight = 0
    for octave in range(octaves):
        share = 1 << (octaves - 1 - octave)
        total += share * _value_noise(max(coarsest >> octave, 1), seed * 31 + octave)
        weight += share
    tile = (total // weight - 128).astype(np.int16)
    tile.setflags(write=False)
    return tile
