"""Kernels of the profile ``adreno-740``, executed in fp16 on llvmpipe, against float64."""

from __future__ import annotations

import llvmpipe
import pytest

pytestmark = pytest.mark.lab

PRODUCTS = """
import numpy as np
from ddimcache.compiler.target import profile
from ddimcache.kernels.conv2d import kernel as conv2d
from ddimcache.kernels.conv2d.reference import conv2d as plain_conv2d
from ddimcache.kernels.conv2d.tiled import POSITIONS, tiled_conv2d, tiled_input, tiles_of
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from ddimcache.kernels.matmul.reference import matmul as plain_matmul
from tests.kit.kernel_run import rounded_weights, run_kernel, te_function

TILES = profile("adreno-740").tiles
random = np.random.default_rng(0)


def one_sum(x, weight):
    # What a plain loop in float16 makes of a reduction: the error that ours is measured by.
    total = np.zeros((x.shape[0], weight.shape[0]), np.float16)
    for k in range(x.shape[1]):
        total += x[:, k, None].astype(np.float16) * weight[None, :, k].astype(np.float16)
    return total


def error(result, exact):
    return np.sqrt(np.mean((result.astype(np.float64) - exact) ** 2)) / np.sqrt(np.mean(exact**2))


def weights(shape, pack, group, how):
    values = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")
    # As the compiler packs them: those of sums in float32 in pixels.
    width = matmul.panel_width(shape[0], TILES.columns_of(how))
    if group is None:
        values = values.astype("float16").astype("float32")
        return values, [pack(values.astype("float16"), width)]
    packed, kept = rounded_weights(values, group, pack, width)
    return kept, packed


def limit(depth, how):
    # One sum in float16 of K numbers loses less than a tenth of epsilon times the root of K here, and no sum
    # is longer than the table says; sums and results are rounded, and weights with scales of groups too.
    length = 0 if how == "float" else TILES.pixels.longest_of(how, depth)
    return 0.1 * 9.8e-4 * np.sqrt(length) + 5e-4


def check(name, result, exact, limit):
    found = error(result, exact)
    print(f"{name}: error {found:.2e}, at most {limit:.2e}")
    assert np.isfinite(result).all() and found <= limit, name


def run_matmul(rows, depth, channels, group, how):
    x = random.standard_normal((1, rows, depth)).astype("float16")
    weight, packed = weights((channels, depth), matmul.pack, group, how)
    arrays = [x, *packed]
    compute = lambda x, w, s=None: matmul.matmul(x, w, s, channels, "float16", how)
    function = te_function(compute, arrays)
    result = run_kernel(function, arrays, (1, rows, channels), "float16", "adreno-740")
    exact = plain_matmul(x.astype("float64"), weight.astype("float64"))
    naive = error(one_sum(x[0], weight), exact[0])
    name = f"matmul {rows}x{depth}x{channels} {how} group={group} (one sum {naive:.2e})"
    check(name, result, exact, limit(depth, how))


def run_conv2d(shape, channels, size, stride, group, how):
    x = random.standard_normal(shape).astype("float16")
    weight, packed = weights((channels, size, size, shape[-1]), conv2d.pack, group, how)
    arrays = [x, *packed]
    strides = (stride, stride)
    compute = lambda x, w, s=None: conv2d.conv2d(x, w, s, channels, strides, "float16", how)
    function = te_function(compute, arrays)
    exact = plain_conv2d(x.astype("float64"), weight.astype("float64"), strides)
    result = run_kernel(function, arrays, exact.shape, "float16", "adreno-740")
    name = f"conv2d {shape} {channels} {size} {stride} {how} group={group}"
    check(name, result, exact, limit(size * size * shape[-1], how))


def run_tiled(shape, channels, group, how):
    # Of random numbers the nine sums of a result are 1.75 times as large as what they leave, and transformed
    # inputs and weights are rounded on their way to them. Measured 2.3 times, of 80 to 320 products.
    batch, height, width, depth = shape
    x = random.standard_normal((batch, height + 2, width + 2, depth)).astype("float16")
    weight, packed = weights((channels, 3, 3, depth), conv2d.pack, group, how)
    made = (batch, *tiles_of(height, width), POSITIONS, depth)
    tiles = run_kernel(te_function(tiled_input, [x]), [x], made, "float16", "adreno-740")
    arrays = [tiles, *packed]
    compute = lambda x, w, s=None: tiled_conv2d(x, w, s, (height, width), channels, "float16", how)
    exact = plain_conv2d(x.astype("float64"), weight.astype("float64"), (1, 1))
    result = run_kernel(te_function(compute, arrays), arrays, exact.shape, "float16", "adreno-740")
    longest = min(depth, TILES.tiled.longest if how == "chunks" else depth)
    # With sums in float32 what is left is the rounding of transformed inputs and of results.
    most = 9e-4 if how == "float" else 2.75 * 0.1 * 9.8e-4 * np.sqrt(longest) + 5e-4
    check(f"tiled conv2d {shape} {channels} {how} group={group}", result, exact, most)


def run_geglu(rows, depth, channels, group, how):
    x = random.standard_normal((1, rows, depth)).astype("float16")
    width = matmul.panel_width(2 * channels, TILES.columns_of(how))
    half = width // 2
    plain = (random.standard_normal((2 * channels, depth)) / np.sqrt(depth)).astype("float32")
    bias = random.standard_normal(2 * channels).astype("float16")
    _, weight = rounded_weights(plain, group, matmul.pack, width)
    packed, _ = rounded_weights(geglu.interleave(plain, half), group, matmul.pack, width)
    arrays = [x, *packed, geglu.interleave(bias, half)]
    function = te_function(lambda x, w, s, b: geglu.geglu(x, w, s, b, "float16", how), arrays)
    result = run_kernel(function, arrays, (1, rows, channels // half, half), "float16", "adreno-740")
    exact = plain_geglu(x.astype("float64"), weight.astype("float64"), bias.astype("float64"))
    name = f"geglu {rows}x{depth}x{channels} {how} {group}"
    check(name, result.reshape(exact.shape), exact, 1.5 * limit(depth, how))


for group in (0, 32):
    for how in ("half", "chunks", "float"):
        run_matmul(64, 320, 64, group, how)
        run_matmul(13, 132, 3, group, how)
    run_matmul(77, 768, 40, group, "chunks")
    run_conv2d((2, 9, 11, 20), 3, 3, 2, group, "half")
    run_conv2d((1, 6, 6, 320), 16, 3, 1, group, "chunks")
run_matmul(1, 1280, 40, 0, "chunks")
run_matmul(7, 4, 4, None, "half")
run_matmul(23, 2560, 24, 128, "chunks")
run_matmul(19, 1048, 8, 0, "float")
run_conv2d((1, 9, 8, 4), 24, 3, 1, None, "half")
run_conv2d((1, 8, 8, 40), 8, 1, 2, 0, "half")
run_conv2d((1, 7, 5, 44), 12, 3, 1, 0, "float")
for group in (0, 32):
    run_tiled((1, 16, 16, 320), 16, group, "chunks")
    run_tiled((2, 13, 7, 64), 12, group, "half")
run_tiled((1, 9, 11, 44), 3, None, "half")
run_tiled((2, 5, 3, 960), 8, 0, "chunks")
run_tiled((1, 8, 8, 1280), 24, 0, "chunks")
run_tiled((1, 3, 5, 2560), 8, 0, "chunks")
run_tiled((1, 1, 17, 640), 8, 0, "half")
for depth in (80, 320, 1280):
    run_tiled((1, 16, 16, depth), 16, None, "float")
    run_conv2d((1, 18, 18, depth), 16, 3, 1, None, "float")
run_tiled((1, 23, 14, 640), 20, 0, "float")
run_tiled((2, 13, 7, 64), 12, 32, "float")
run_tiled((1, 3, 5, 2560), 3, 0, "float")
run_geglu(67, 128, 12, 0, "half")
run_geglu(11, 1280, 16, 64, "chunks")
run_geglu(67, 128, 12, 0, "float")
run_geglu(11, 1280, 6, 64, "float")
run_matmul(4100, 64, 12, None, "float")
run_conv2d((1, 21, 14, 4), 24, 3, 1, None, "float")
run_conv2d((2, 9, 15, 96), 20, 3, 2, 32, "float")
print("right")
"""

ATTENTION = """
import numpy as np
from ddimcache.compiler.target import profile
from ddimcache.kernels.attention.kernel import Place
from ddimcache.kernels.attention.pixels import pixel_attention
from tests.kit.kernel_run import run_kernel

TABLE = profile("adreno-740").tiles.pixels
random = np.random.default_rng(0)


def exact_attention(score, values):
    share = np.exp(score - score.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", share / share.sum(-1, keepdims=True), values)


def run_one_head(name, q, k, v, limit):
    _, queries, width = q.shape
    tokens = k.shape[1]
    kernel = pixel_attention(
        (1, queries, 1, width), tokens, "float16", width**-0.5, together=TABLE.together_of(width // 4),
        work_group=TABLE.attention_group, image_pixels=1 << 27, has_bias=False, places=(Place(width, 0),) * 3,
    )
    arrays = [q, k, v, np.zeros((1, 1), "float32")]
    shape = (1, queries, 1, width)
    result = run_kernel(kernel, arrays, shape, "float16", "adreno-740").astype("float64")
    score = np.einsum("bqd,bkd->bqk", q.astype("float64"), k.astype("float64"))[:, None] * width**-0.5
    exact = exact_attention(score, v.astype("float64")[:, :, None])
    error = np.sqrt(np.mean((result - exact) ** 2) / np.mean(exact**2))
    print(f"attention, scores {name}: error {error:.2e}")
    assert np.isfinite(result).all() and error <= limit


def run_large(base):
    # Scores of base, 8 and 16 more, whose sums over a few pixels are exact in float16; it has no 32784.
    queries, tokens, width = 9, 301, 64
    q = np.full((1, queries, width), 512, "float16")  # scaled: 64
    k = np.full((1, tokens, width), base / 64 / width, "float16")
    k[0, :, 0] += random.integers(0, 3, tokens).astype("float16") / 8
    v = random.standard_normal((1, tokens, width)).astype("float16")
    run_one_head(f"of {base}", q, k, v, 2e-3)


def run_slope(queries, tokens, width, first, last):
    # The scores of every block are above those before, or below; some queries see no slope. It is made of
    # whole numbers, by the first of some pixels that are summed alone, so that float16 has them.
    q = random.standard_normal((1, queries, width)).astype("float16")
    q[0, :, 0] = np.where(np.arange(queries) % 3, width**0.5, 0)
    q[0, :, 1:16] = 0
    k = random.standard_normal((1, tokens, width)).astype("float16")
    k[0, :, 0] = np.round(np.linspace(first, last, tokens))
    v = (12 + random.standard_normal((1, tokens, width))).astype("float16")
    run_one_head(f"from {first} to {last}", q, k, v, 3e-3)


def run(queries, tokens, heads, width, merged=False, causal=False, most=1 << 27):
    size = heads * width
    scale = width**-0.5
    if merged:
        row = random.standard_normal((1, tokens, 3 * size)).astype("float16")
        q = k = v = row
        places = tuple(Place(3 * size, size * index) for index in range(3))
        parts = np.split(row, 3, axis=-1)
    else:
        counts = (queries, tokens, tokens)
        parts = [random.standard_normal((1, count, size)).astype("float16") for count in counts]
        q, k, v = parts
        places = (Place(size, 0),) * 3
    bias = np.where(np.arange(tokens)[:, None] <= np.arange(queries), 0, -1e30).astype("float32")
    bias = bias if causal else np.zeros((1, 1), "float32")
    kernel = pixel_attention(
        (1, queries, heads, width), tokens, "float16", scale, together=TABLE.together_of(width // 4),
        work_group=TABLE.attention_group, image_pixels=most, has_bias=causal, places=places,
    )
    shape = (1, queries, heads, width)
    result = run_kernel(kernel, [q, k, v, bias], shape, "float16", "adreno-740").astype("float64")
    qh, kh, vh = (part.reshape(1, -1, heads, width).astype("float64") for part in parts)
    score = np.einsum("bqhd,bkhd->bhqk", qh, kh) * scale + (bias.T if causal else 0)
    exact = exact_attention(score, vh)
    error = np.sqrt(np.mean((result - exact) ** 2) / np.mean(exact**2))
    # Sums in float16 of a block of keys, of as many as there are blocks, and of products of a score.
    sums = np.sqrt(min(tokens, width)) + np.sqrt(max(tokens / width, 1))
    limit = 9.8e-4 * (1 + 0.1 * sums + 0.1 * np.sqrt(width / 4))
    print(f"attention {queries}x{tokens} {heads}x{width}: error {error:.2e}, at most {limit:.2e}")
    assert np.isfinite(result).all() and error <= limit


run(64, 64, 2, 40, merged=True)
run(300, 300, 2, 40, merged=True)
run(50, 77, 3, 80)
run(130, 1024, 1, 160)
run(77, 77, 2, 64, causal=True)
run(13, 11, 1, 512)
run(3, 77, 1, 4)  # a work-item alone
for base in (32768, 126976, -122880):
    run_large(base)
run_slope(50, 333, 64, 0, 30)
run_slope(50, 333, 64, 300, 0)
run_slope(9, 5001, 64, 1, 3)
run_slope(29, 201, 64, -2000, 2000)
run(70, 77, 1, 40, most=735)  # Keys and values are no images then.
print("right")
"""


RECORDS = """
import dataclasses

import numpy as np
import tvm

from ddimcache.compiler.target import profile
from ddimcache.kernels.workload import parse
from ddimcache.schedules import tuning_records as store
from ddimcache.schedules.spaces import space_of
from ddimcache.tuning import kernels
from ddimcache.tuning.child import TOLERANCE

LIMITS = {
    "attention": (1, 150, 150, 2, 1 << 20),
    "matmul": (70, 1 << 20, 64),
    "geglu": (70, 1 << 20, 64),
    "conv2d": (1, 12, 12, 1 << 20, 32, 3, 3, 2, 2),
}
RANDOM = [
    "matmul 61x320x24 float16 int8g64",
    "conv2d 1x9x11x64x24x3x3x2x2 float16 int8",
    "geglu 33x640x32 float16 int8",
    "matmul 61x320x24 float16 float16",
    "conv2d 1x9x11x64x24x3x3x1x1 float16 float16",
    "geglu 33x640x32 float16 float16",
    "attention 1x70x70x2x40 float16 none",
]
base = profile("adreno-740")
records = store.read_log(store.shipped_folder("adreno-740"), base).records.values()
trials = [(record.workload, record.decisions) for record in records]
random = np.random.default_rng(0)
for text in RANDOM:
    space = space_of(base.tiles, parse(text))
    for _ in range(3):
        decisions = {place: int(random.choice(numbers)) for place, numbers in space.items()}
        trials.append((parse(text), decisions))
for whole, decisions in trials:
    sizes = tuple(map(min, whole.sizes, LIMITS[whole.family]))
    workload = dataclasses.replace(whole, sizes=sizes)
    device = dataclasses.replace(base, tuned={workload: decisions})
    arrays = kernels.make_inputs(workload)
    inputs = kernels.arguments(workload, device, arrays)
    function = kernels.kernel_of(workload, device, inputs)
    there = [tvm.runtime.tensor(array, tvm.device("opencl", 0)) for array in inputs]
    blank = np.full(kernels.result_shape(function), np.nan, workload.dtype)
    out = tvm.runtime.tensor(blank, tvm.device("opencl", 0))
    kernels.build(function, device)["main"](*there, out)
    right = kernels.expected(workload, arrays)
    error = np.abs(out.numpy().astype("float64").reshape(right.shape) - right).max() / np.abs(right).max()
    print(f"{workload.text} {decisions}: error {error:.2e}")
    assert error <= TOLERANCE["float16"]
print("right")
"""


def test_decisions_of_the_records_that_come_with_the_package_and_others() -> None:
    """A modelled record was never run: its decisions are, on fewer pixels, tokens and channels."""
    done = llvmpipe.run_python(RECORDS)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout


def test_attention_in_pixels() -> None:
    done = llvmpipe.run_python(ATTENTION)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout


def test_products_in_pixels() -> None:
    done = llvmpipe.run_python(PRODUCTS)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout
