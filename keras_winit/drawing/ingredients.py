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

    def normal(self, *shape: int) -> Array:
        """N(0, 1), by Box and Muller 1958."""
        radius, turn = self.uniform(2, *shape)
        return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * math.pi * turn))

    def haar(self, count: int, size: int) -> Array:
        """Haar-distributed matrices, by the QR factorization of normal ones, its signs corrected."""
        q, r = np.linalg.qr(self.normal(count, size, size))
        return q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]

    def circles(self, count: int, size: int) -> Array:
        """Vectors that are orthonormal to their own cyclic shifts: of random phases, all as strong."""
        phases = np.exp(2j * math.pi * self.uniform(count, size // 2 + 1))
        phases[:, 0] = np.where(phases[:, 0].real < 0, -1, 1)
        if size % 2 == 0:
            phases[:, -1] = np.where(phases[:, -1].real < 0, -1, 1)
        return np.fft.irfft(phases, size)

    def orders(self, count: int, size: int) -> NDArray[np.int64]:
        """Permutations of 0 … size − 1."""
        return np.argsort(self.words(count, size), axis=1, kind="stable")

    def signs(self, *shape: int) -> NDArray[np.bool_]:
        """Whether a sign is negative, with equal chance."""
        return np.asarray(self.words(*shape) >> np.uint64(63) == 1)
