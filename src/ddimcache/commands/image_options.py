"""Options of a picture that more than one verb takes, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    Path | None,
    typer.Option(help="Diffusers folder or bundle. Default: the embedded model.", metavar="DIR|BUNDLE"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="int8, int8-g32, int8-g64, int8-g128, fp16 or fp32, for a folder that is compiled. "
        "Default: int8."
    ),
]
Cut = Annotated[int | None, typer.Option(help="Where the cache cuts the UNet, 0 the outermost. Default: 0.")]
Size = Annotated[str | None, typer.Option(help="Pixels. Default: the model's own.", metavar="WIDTHxHEIGHT")]
Steps = Annotated[int, typer.Option(help="DDIM steps, 1 … 1000.")]
CacheInterval = Annotated[
    int,
    typer.Option(help="Run the whole UNet every n-th step and reuse its U2 feature between; 1: always."),
]
CacheSchedule = Annotated[
    str,
    typer.Option(
        help="Which steps run the whole UNet, at the number that the interval makes: uniform, quadratic, "
        "searched (kept in the bundle by `ddimcache schedule`), or auto: searched where there is one."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(help="Scale of classifier-free guidance; 1 or below: none. Default: 7.5; embedded model 2."),
]
NegativePrompt = Annotated[str, typer.Option(help="What not to draw.")]


def default_guidance(embedded: bool) -> float:
    """Return the guidance where none is named.

    The embedded model follows its captions without much of it, and its shapes bend with more.
    """
    return 2.0 if embedded else 7.5
