"""Winograd's F(2 x 2, 3 x 3) in two kernels: one transforms the input, the other does the rest.

``kernels/conv2d/winograd.py`` has the algorithm. Where work-items have no memory of their own in which a
transformed input could stay, it goes through the device's: four times the numbers of the input, each of which
every panel of output channels reads as the direct convolution reads its pixels. Weights are transformed where
they are brought to local memory, results where sums meet.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from ddimcache.kernels.conv2d.winograd import transform_input
from ddimcache.kernels.scales import Scales
from ddimcache.kernels.tags import FAMILY, PIXELS, TILED
from ddimcache.kernels.tiling import wide

SIZE = 2
"""Side of a tile of outputs."""

SIDE = SIZE + 2
"""Side of a tile of inputs, and of products."""

POSITIONS = SIDE**2
"""Products of a tile and a pair of channels."""

INPUT = "winograd_input"
"""Name of the block that makes transformed inputs."""


def tiles_of(height: int, width: int) -> tuple[int, int]:
    """Tiles below and beside each other of a result of ``height`` x ``width``."""
    return -(-height // SIZE), -(-width // SIZE)


def transform_line(d: Any, position: Any) -> Any:
    """``B^T d`` at ``position``, 0 to 3, which may be an expression; ``d`` of a place gives a number."""
    rows = transform_input(SIZE, [d(place) for place in range(SIDE)])
    value = rows[-1]
    for place in reversed(range(SIDE - 1)):
        value = te.if_then_else(position.equal(place), rows[place], value)
    return value


def tiled_input(x: te.Tensor, name: str = INPUT) -> te.Tensor:
    """``B^T d B`` of the tiles of padded ``x`` [B, H + 2, W + 2, C]: [B, H / 2, W / 2, 16, C] in its type.

    A tile that reaches over the edge has zeros there.
    """
    batch, height, width, depth = (int(value) for value in x.shape)
    high, across = tiles_of(height - 2, width - 2)

    def tile(b: Any, row: Any, column: Any, i: Any, j: Any, c: Any) -> Any:
        places = (row * SIZE + i, column * SIZE + j)
        inside = [
            place < extent for place, extent in zip(places, (height, width), strict=True) if extent % SIZE
        ]
        value = x[b, places[0], places[1], c]
        # A place that is held inside instead would let TVM compute all of the rows before for each tile.
        return te.if_then_else(te.all(*inside), value, tirx.const(0, x.dtype)) if inside else value

    tiles = te.compute(wide([batch, high, across, SIDE, SIDE, depth]), tile, name="tile")

    def transformed(b: Any, row: Any, column: Any, position: Any, c: Any) -> Any:
        return transform_line(
            lambda i: transform_line(
                lambda j: tiles[b, row, column, i, j, c].astype("float32"), position % SIDE
            ),
            position // SIDE,
        ).astype(x.dtype)

    return te.compute(wide([batch, high, across, POSITIONS, depth]), transformed, name=name)


def _choose(condition: Any, value: Any, otherwise: Any) -> Any:
    """One of two numbers, in float32."""
    first, second = (
        tirx.const(one, "float32") if isinstance(one, float) else one for one in (value, otherwise)
    )
    return tirx.Select(condition, first, second)


def _weight_factor(position: Any, tap: Any) -> Any:
    """``G`` at (``position``, ``tap``)."""
    first, last = _choose(tap.equal(0), 1.0, 0.0), _choose(tap.equal(SIDE - 2), 1.0, 0.0)
    middle = _choose(tirx.all(position.equal(2), tap.equal(1)), -0.5, 0.5)
    return _choose(position.equal(0), first, _choose(position.equal(SIDE - 1), last, middle))


def _result_factor(place: Any, position: Any) -> Any:
    """``A^T`` at (``place``, ``position``)."""
    first = _choose(position.equal(SIDE - 1), 0.0, 1.0)
    second = _choose(position.equal(0), 0.0, _choose(position.equal(1), 1.0, -1.0))
    return _choose(place.equal(0), first, second)


def tiled_conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    scale: te.Tensor | None,
    shape: tuple[int, int],
    channels: int,
    dtype: str,
    sums: str,
) -> te.Tensor:
    """Convolves what :func:`tiled_input` made of an input with packed ``weight`` [O / P, 3, 3, C, P].

    Gives [B, H, W, O] in ``dtype``, of ``shape`` (H, W); the other arguments are those of ``conv2d``. Other
    loops take the place of this definition (``kernels/conv2d/winograd_pixels.py``).
    """
    scales = Scales(scale, weight)
    batch, _, _, positions, depth = (int(value) for value in x.shape)
    panels, panel = int(weight.shape[0]), int(weight.shape[-1])
    axes = [te.reduce_axis((0, extent), name) for extent, name in _reduction(positions, depth)]
    attributes = {FAMILY: "conv2d", TILED: SIZE, PIXELS: sums, **scales.annotations}

    def product(b: Any, row: Any, column: Any, o: Any) -> Any:
        position, dy, dx, c = axes
        value = x[b, row // SIZE, column // SIZE, position, c].astype("float32")
        factor = scales.weight(weight, (o // panel, dy, dx, c, o % panel))
        i, j = position // SIDE, position % SIDE
        value = value * (_result_factor(row % SIZE, i) * _result_factor(column % SIZE, j))
        return te.sum(value * (factor * (_weight_factor(i, dy) * _weight_factor(j, dx))), axis=axes)

    summed = te.compute(wide([batch, *shape, panels * panel]), product, name="conv2d", attrs=attributes)

    def finish(*index: Any) -> Any:
        factor = scales.of_channels
        return (summed[index] if factor is None else summed[index] * factor[index[-1]]).astype(dtype)

    return te.compute(wide([batch, *shape, channels]), finish, name="conv2d_scale")


def _reduction(positions: int, depth: int) -> list[tuple[Any, str]]:
    names = ("position", "dy", "dx", "c")
    return list(zip(wide([positions, 3, 3, depth]), names, strict=True))
