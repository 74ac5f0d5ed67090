"""The small random parts of a large orthogonal matrix, computed by NumPy in float64.

They come from the raw words of a counter-based generator, Philox, whose stream NumPy promises not
to change: the same seed gives the same parts on every backend.

J. Salmon, M. Moraes, R. Dror, D. Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Stream:
    """Random numbers of one key, one after the other."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)

    def words(self, *shape: int) -> NDArray[np.uint64]:
        """64 random bits each."""
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def uniform(self, *shape: int) -> Array:
        """U(0, 1), never 0."""
        return ((self.words(*shape) >> np.uint64(11)).astype("float64") + 0.5) * 2.0**-53

    def disc(self, count: int) -> tuple[NDArray[np.complex128], Array]:
        """Points that are uniform in the unit disc, those of a square that are in it, and |z|² of each."""
        found: list[tuple[NDArray[np.complex128], Array]] = []
        missing = count
        while missing > 0 or not found:
            enough = 2 * (missing + missing // 3 + 4 * math.isqrt(missing) + 4)  # π/4 of them are inside
            numbers = 2 * self.uniform(enough) - 1
            points, squares = numbers.view("complex128"), np.square(numbers)
            distances = squares[::2] + squares[1::2]
            # 0, which has no logarithm, has a chance below 2⁻¹⁰⁰.
            inside = np.flatnonzero(distances < 1)[:missing]
            found.append((points[inside], distances[inside]))
            missing -= len(inside)
        points, distances = (np.concatenate(each) for each in zip(*found, strict=True))
        return points, distances

    def normal(self, *shape: int) -> Array:
        """N(0, 1), two from a point, by Marsaglia and Bray 1964: a cosine costs five times a logarithm."""
        count = math.prod(shape)
        points, distances = self.disc(-(-count // 2))
        pairs = points * np.sqrt(-2 * np.log(distances) / distances)
        return pairs.view("float64")[:count].reshape(shape)

    def haar(self, count: int, size: int) -> Array:
        """Haar-distributed matrices, by the QR factorization of normal ones, its signs corrected."""
        q, r = np.linalg.qr(self.normal(count, size, size))
        return q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]

    def circles(self, count: int, size: int) -> Array:
        """Vectors that are orthonormal to their own cyclic shifts: of random phases, all as strong."""
        points, distances = self.disc(count * (size // 2 + 1))
        phases = (points / np.sqrt(distances)).reshape(count, -1)
        phases[:, 0] = np.where(phases[:, 0].real < 0, -1, 1)
        if size % 2 == 0:
            phases[:, -1] = np.where(phases[:, -1].real < 0, -1, 1)
        return np.fft.irfft(phases, size)

    def orders(self, count: int, size: int) -> NDArray[np.int64]:
        """Permutations of 0 … size − 1."""
        return np.argsort(self.words(count, size), axis=1)

    def signs(self, *shape: int) -> NDArray[np.bool_]:
        """Whether a sign is negative, with equal chance."""
        return np.asarray(self.words(*shape) >> np.uint64(63) == 1)
