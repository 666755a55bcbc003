"""The noise of a seed: the same bits on every machine, here and in ``runtime/cc/session/noise.cc``.

Numbers 4k … 4k+3 come from block k of Philox4x32-10 (Salmon et al., SC 2011) with the seed as its key, by the
quantile of the normal distribution (Wichura, Algorithm AS 241, Applied Statistics 37, 1988). Only sums,
products, quotients and square roots of float64 are used, each rounded once, so no library's logarithm decides
a bit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LARGEST_SEED = 2**63 - 1

_CENTRE_ABOVE = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
)
_CENTRE_BELOW = (
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)
_TAIL_ABOVE = (
    7.74545014278341407640e-4,
    2.27238449892691845833e-2,
    2.41780725177450611770e-1,
    1.27045825245236838258e0,
    3.64784832476320460504e0,
    5.76949722146069140550e0,
    4.63033784615654529590e0,
    1.42343711074968357734e0,
)
_TAIL_BELOW = (
    1.05075007164441684324e-9,
    5.47593808499534494600e-4,
    1.51986665636164571966e-2,
    1.48103976427480074590e-1,
    6.89767334985100004550e-1,
    1.67638483018380384940e0,
    2.05319162663775882187e0,
    1.0,
)


def philox(counters: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return Philox4x32-10 of counters [N, 4] under a key of two 32-bit words, [N, 4]."""
    c0, c1, c2, c3 = (counters[:, index].astype(np.uint64) for index in range(4))
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = key
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (second >> shift) ^ c1 ^ np.uint64(k0),
            second & mask,
            (first >> shift) ^ c3 ^ np.uint64(k1),
            first & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return numbers of the standard normal distribution, float32.

    Parameters
    ----------
    seed : 0 … 2⁶⁴ − 1.
    shape : of the result, filled in row-major order.
    """
    count = math.prod(shape)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    counters = np.zeros((len(blocks), 4), np.uint32)
    counters[:, 0], counters[:, 1] = blocks & np.uint64(0xFFFFFFFF), blocks >> np.uint64(32)
    words = philox(counters, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)[:count]
    return normal_quantile(words).astype(np.float32).reshape(shape)


def normal_quantile(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return the standard normal quantile at (word + ½) / 2³² of each 32-bit word, float64."""
    probability = (words.astype(np.float64) + 0.5) * 2.0**-32
    q = probability - 0.5
    r = 0.180625 - q * q
    centre = q * _polynomial(_CENTRE_ABOVE, r) / _polynomial(_CENTRE_BELOW, r)
    r = np.sqrt(-logarithm(np.where(q < 0, probability, 1.0 - probability))) - 1.6
    tail = _polynomial(_TAIL_ABOVE, r) / _polynomial(_TAIL_BELOW, r)
    return np.where(np.abs(q) <= 0.425, centre, np.where(q < 0, -tail, tail))


def logarithm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return natural logarithms of normal positive numbers, within 2 units in the last place."""
    mantissa, exponent = np.frexp(values)
    small = mantissa < 0.70710678118654752
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    exponent = np.where(small, exponent - 1, exponent).astype(np.float64)
    # log m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …), |s| < 0.172
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    total = np.full_like(s, 1.0 / 21.0)
    for odd in range(19, 0, -2):
        total = total * z + 1.0 / odd
    high, low = 6.93147180369123816490e-01, 1.90821492927058770002e-10
    return exponent * high + (exponent * low + 2.0 * (s * total))


def _polynomial(coefficients: tuple[float, ...], x: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
