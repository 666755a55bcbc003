"""Rows of a table that is stored in int8 with a scale a row: what is taken is converted as it is taken."""

from __future__ import annotations

from tvm import te, tirx


def lookup(table: te.Tensor, scale: te.Tensor, rows: te.Tensor, dtype: str) -> te.Tensor:
    """``table`` [N, C] int8 times ``scale`` [N] float32 at ``rows`` [R] int32, as [R, C] of ``dtype``.

    A number outside the table names the nearest of its rows.
    """
    count, channels = table.shape

    def value(place: tirx.Var, channel: tirx.Var) -> tirx.Expr:
        row = te.max(te.min(rows[place], tirx.const(int(count) - 1, "int32")), tirx.const(0, "int32"))
        return (table[row, channel].astype("float32") * scale[row]).astype(dtype)

    return te.compute((rows.shape[0], channels), value, name="lookup")
