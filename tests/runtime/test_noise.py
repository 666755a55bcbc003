"""The noise of a seed: known answers, the same bits from C++ and Python, and a normal distribution."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddimcache.runtime.native import native
from ddimcache.runtime.noise import LARGEST_SEED, logarithm, noise, normal_quantile, philox


def from_cpp(seed: int, count: int) -> np.ndarray:
    return np.frombuffer(bytes(native("noise")(struct.pack("<Q", seed), count)), "<f4")


# The vectors that the authors of Random123 publish for philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_is_the_published_one(counter, key, expected):
    assert tuple(philox(np.array([counter], np.uint32), key)[0]) == expected


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, LARGEST_SEED), count=st.integers(1, 5000))
def test_the_same_bits_from_cpp_and_python(seed, count):
    assert from_cpp(seed, count).tobytes() == noise(seed, (count,)).tobytes()


def test_a_million_numbers_have_the_same_bits():
    assert from_cpp(1, 1_000_003).tobytes() == noise(1, (1_000_003,)).tobytes()


def test_numbers_do_not_hang_on_how_many_are_drawn():
    assert noise(9, (4, 8, 8)).tobytes() == noise(9, (1000,))[:256].tobytes()


def test_seeds_of_both_halves_matter():
    firsts = {noise(seed, (4,)).tobytes() for seed in (0, 1, 1 << 31, 1 << 32, LARGEST_SEED)}
    assert len(firsts) == 5


def test_noise_of_a_seed_is_pinned():
    # A change here changes every picture that a seed names.
    expected = normal_quantile(np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint32))
    np.testing.assert_array_equal(noise(0, (1, 4)).ravel(), expected.astype(np.float32))
    np.testing.assert_allclose(expected, stats.norm.ppf([0.399046, 0.880519, 0.735713, 0.605481]), atol=1e-5)


def test_quantile_is_that_of_the_normal_distribution():
    words = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    words[:4] = 0, 1, 2**32 - 2, 2**32 - 1
    expected = stats.norm.ppf((words + 0.5) * 2.0**-32)
    # Near the middle both lose digits of q = p - 1/2, so the bound is absolute there.
    np.testing.assert_allclose(normal_quantile(words), expected, rtol=4e-15, atol=4e-15)


def test_logarithm_is_within_two_units_in_the_last_place():
    values = np.exp(np.random.default_rng(1).uniform(-23, 0, 100_000))
    expected = np.array([math.log(value) for value in values])
    assert (np.abs(logarithm(values) - expected) <= 2 * np.spacing(np.abs(expected))).all()


@pytest.mark.parametrize("seed", [0, 12345, LARGEST_SEED])
def test_moments_and_distribution(seed):
    numbers = noise(seed, (400_000,)).astype(np.float64)
    error = 1 / math.sqrt(len(numbers))
    # Standard errors of mean, variance, skewness and kurtosis of normal numbers; five of each.
    assert abs(numbers.mean()) < 5 * error
    assert abs(numbers.var() - 1) < 5 * math.sqrt(2) * error
    assert abs(stats.skew(numbers)) < 5 * math.sqrt(6) * error
    assert abs(stats.kurtosis(numbers)) < 5 * math.sqrt(24) * error
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 * error
