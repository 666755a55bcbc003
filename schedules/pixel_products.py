"""Schedule of matrix products and convolutions whose operands are read as pixels.

A pixel is four consecutive numbers of the innermost axis, read by one instruction through the texture cache:
four channels of an activation, or the weights of four output channels. A work-item computes ``rows`` pixels
(or tokens) times a panel of output channels. At every step of the reduction it reads four rows of the panel
and one pixel of each of its rows, which is R P 4 multiply-adds on R + P reads: 8 x 4 makes 128 of them on 12.
Image reads take no address arithmetic to speak of, and the sampler makes fractions of int8 weights.

A work-group is a rectangle: ``across`` panels times ``down`` tiles of rows, so that its work-items share rows
as well as panels, and what they read stays in the cache.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from ddimcache.compiler.target import PixelTiles, TileTable
from ddimcache.kernels.tags import FAMILY, PAIRED, PIXELS, STAGE
from ddimcache.kernels.tiling import PIXEL, largest_divisor
from ddimcache.schedules.blocks import extent, inline_all_but, sblock_names
from ddimcache.schedules.products import box_rows, vectorise_store


def schedule_pixel_product(function: tirx.PrimFunc, tiles: TileTable) -> tirx.PrimFunc | None:
    """Schedules ``function`` if it is a product that reads pixels, else returns ``None``."""
    schedule = s_tir.Schedule(function)
    names = sblock_names(schedule)
    marks = {name: schedule.get(schedule.get_sblock(name)).annotations for name in names}
    products = [name for name in names if FAMILY in marks[name] and PIXELS in marks[name]]
    if not products or tiles.pixels is None:
        return None
    [product] = products
    how = str(marks[product][PIXELS])
    stages = {name: str(marks[name][STAGE]) for name in names if STAGE in marks[name]}
    inline_all_but(schedule, {product, *stages, names[-1]})
    total = next((name for name, stage in stages.items() if stage == "total"), None)
    _Tiler(
        schedule, schedule.get_sblock(product), schedule.get_sblock(names[-1]), total, tiles.pixels.of(how)
    ).run()
    return schedule.mod["main"].with_attr(PIXELS, how)


class _Tiler:
    def __init__(
        self, schedule: s_tir.Schedule, product: Any, epilogue: Any, total: str | None, tiles: PixelTiles
    ) -> None:
        self.schedule = schedule
        self.product = product
        self.epilogue = epilogue
        self.total = None if total is None else schedule.get_sblock(total)
        self.tiles = tiles
        self.paired = PAIRED in schedule.get(product).annotations

    def run(self) -> None:
        schedule = self.schedule
        item = self._bind_pairs() if self.paired else self._bind()
        place = item
        if self.total is not None:
            if self.paired:
                schedule.compute_at(self.total, item, preserve_unit_loops=True)
            place = self._sum_chunks(item)
        elif self.paired:
            schedule.compute_at(self.product, item, preserve_unit_loops=True)
        self._reduce(place)
        if not self.paired:
            schedule.reverse_compute_at(self.epilogue, item)
        vectorise_store(schedule, self.epilogue, item, PIXEL)

    def _bind(self) -> Any:
        """Binds the loops of the outermost sum; returns the innermost loop that is a work-item's."""
        schedule = self.schedule
        block = self.product if self.total is None else self.total
        kinds = [variable.iter_type for variable in schedule.get(block).iter_vars]
        loops = schedule.get_loops(block)
        spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
        reduction = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.DataPar]
        *lines, column = spatial
        grid, inner = self._grid(lines, column, self._panel())
        schedule.reorder(*grid, *reduction, *inner)
        return self._bind_grid(grid)

    def _bind_pairs(self) -> Any:
        """The same where the epilogue makes one result of two sums: its loops lead."""
        *lines, panel, column = self.schedule.get_loops(self.epilogue)
        grid, (row, _) = self._grid(lines, panel, 1)
        self.schedule.reorder(*grid, row, column)
        return self._bind_grid(grid)

    def _grid(self, lines: list[Any], column: Any, width: int) -> tuple[list[Any], list[Any]]:
        """Splits into blocks and work-items of lines and of panels, and what is inside a work-item.

        Lines stay apart instead of being fused: their numbers are then sums and not remainders of quotients.
        """
        schedule, tiles = self.schedule, self.tiles
        *others, line = lines
        # Paired sums have two panels side by side.
        rows = box_rows([extent(schedule, line)], max(tiles.rows // (2 if self.paired else 1), 1))
        items = tiles.across * tiles.down
        panels, tiles_of_rows = extent(schedule, column) // width, extent(schedule, line) // rows
        across = largest_divisor(panels, tiles.across)
        down = largest_divisor(tiles_of_rows, items // across)
        grid = []
        if others:
            *outermost, other = others
            deep = largest_divisor(extent(schedule, other), items // (across * down))
            other_block, other_item = schedule.split(other, [None, deep])
            grid.append(schedule.fuse(*outermost, other_block) if outermost else other_block)
        else:
            deep = 1
        across = largest_divisor(panels, items // (down * deep))
        line_block, line_item, row = schedule.split(line, [None, down, rows])
        panel_block, panel_item, inside = schedule.split(column, [None, across, width])
        grid += [panel_block, line_block, *([other_item] if others else []), line_item, panel_item]
        return grid, [row, inside]

    def _bind_grid(self, grid: list[Any]) -> Any:
        tags = ["blockIdx.z", "blockIdx.y", "blockIdx.x", "threadIdx.z", "threadIdx.y", "threadIdx.x"]
        if len(grid) == 4:
            tags = [tag for tag in tags if not tag.endswith("z")]
        for loop, tag in zip(grid, tags, strict=True):
            self.schedule.bind(loop, tag)
        return grid[-1]

    def _panel(self) -> int:
        """The panel width: the last extent of the packed weight, behind the product's second input."""
        return int(self.schedule.get(self.product).reads[1].source.shape[-1])

    def _sum_chunks(self, item: Any) -> Any:
        """Puts the product into the loop over chunks, whose sums are added up; returns that loop."""
        schedule = self.schedule
        kinds = [variable.iter_type for variable in schedule.get(self.total).iter_vars]
        loops = schedule.get_loops(self.total)
        if self.paired:
            own = loops[-len(kinds) :]
            chunks = [loop for loop, kind in zip(own, kinds, strict=True) if kind != tirx.IterVar.DataPar]
            rest = [loop for loop, kind in zip(own, kinds, strict=True) if kind == tirx.IterVar.DataPar]
            schedule.reorder(*chunks, *rest)
        else:
            position = _position(schedule, loops, item)
            count = sum(kind != tirx.IterVar.DataPar for kind in kinds)
            chunks, rest = loops[position + 1 : position + 1 + count], loops[position + 1 + count :]
        for loop in rest[:-1]:
            schedule.unroll(loop)
        schedule.vectorize(rest[-1])
        schedule.set_scope(self.total, 0, "local")
        schedule.compute_at(self.product, chunks[-1], preserve_unit_loops=True)
        schedule.decompose_reduction(self.total, chunks[0])
        return chunks[-1]

    def _reduce(self, place: Any) -> None:
        """Orders the loops of the product inside ``place`` and reads its operands where they are needed."""
        schedule, product = self.schedule, self.product
        kinds = [variable.iter_type for variable in schedule.get(product).iter_vars]
        loops = schedule.get_loops(product)
        inner = loops[_position(schedule, loops, place) + 1 :]
        count = sum(kind != tirx.IterVar.DataPar for kind in kinds)
        if self.total is None and not self.paired:
            sums, lines = inner[:count], inner[count:]
        else:
            sums, lines = inner[-count:], inner[:-count]
        *rows, column = lines
        panels = [rows.pop(-2), rows.pop(-1)] if self.paired else []
        *outer, depth = sums
        step, unrolled, within = schedule.split(depth, [None, self._unroll(depth), PIXEL])
        column_outer, lane = schedule.split(column, [None, PIXEL])
        schedule.reorder(*outer, step, unrolled, *rows, within, *panels, column_outer, lane)
        schedule.set_scope(product, 0, "local")
        activations, weights = (self._producer(index) for index in (0, 1))
        self._read(weights, unrolled)
        self._read(activations, rows[-1])
        for loop in (unrolled, *rows, within, *panels, column_outer):
            schedule.unroll(loop)
        schedule.vectorize(lane)
        schedule.decompose_reduction(product, [*outer, step][0])

    def _unroll(self, depth: Any) -> int:
        return largest_divisor(extent(self.schedule, depth) // PIXEL, self.tiles.unroll)

    def _producer(self, index: int) -> Any:
        source = self.schedule.get(self.product).reads[index].source
        for block in self.schedule.get_producers(self.product):
            if any(region.source.same_as(source) for region in self.schedule.get(block).writes):
                return block
        raise AssertionError(f"operand {index} of a product that reads pixels has no stage of its own")

    def _read(self, block: Any, loop: Any) -> None:
        schedule = self.schedule
        schedule.set_scope(block, 0, "local")
        schedule.compute_at(block, loop)
        loops = schedule.get_loops(block)
        own = loops[_position(schedule, loops, loop) + 1 :]
        for other in own[:-1]:
            schedule.unroll(other)
        outer, lane = schedule.split(own[-1], [None, PIXEL])
        schedule.unroll(outer)
        schedule.vectorize(lane)


def _position(schedule: s_tir.Schedule, loops: list[Any], loop: Any) -> int:
    names = [schedule.get(other).loop_var for other in loops]
    variable = schedule.get(loop).loop_var
    return next(place for place, name in enumerate(names) if name.same_as(variable))
