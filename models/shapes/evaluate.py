"""Measures how often a pipeline's pictures show what their captions ask for.

python -m ddimcache.models.shapes.evaluate --prompts 200 --steps 20 --guidance 2
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ddimcache.models.shapes.export import WEIGHTS
from ddimcache.models.shapes.grammar import scenes_to_ask
from ddimcache.models.shapes.judge import read_scores
from ddimcache.models.shapes.run_folder import RunFolder
from ddimcache.quality.sensitivity import load_pipeline

_EXAMPLES = """
Examples:

  python -m ddimcache.models.shapes.evaluate --prompts 200 --steps 20 --guidance 2

  python -m ddimcache.models.shapes.evaluate --held-out --json --grid /tmp/shapes-grid
"""


def paint(
    pipeline: Any, captions: list[str], steps: int, guidance: float, seed: int, batch: int = 20
) -> np.ndarray:
    """Return uint8 (captions, 128, 128, 3) pictures; a caption's noise depends on seed and place."""
    pictures = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        generators = [
            torch.Generator().manual_seed(seed * 100_003 + start + place) for place in range(len(part))
        ]
        values = pipeline(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        ).images
        pictures.append(np.rint(values * 255).astype(np.uint8))
    return np.concatenate(pictures)


def main(
    model: Annotated[Path, typer.Option(help="The diffusers folder to measure.")] = WEIGHTS,
    prompts: Annotated[int, typer.Option(help="How many captions to paint.")] = 100,
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Guidance scale; 1 is without guidance.")] = 2.0,
    held_out: Annotated[
        bool, typer.Option("--held-out/--trained", help="Combinations kept out of training, or trained ones.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the captions and of the noise.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves PyTorch's choice.")] = 0,
    grid: Annotated[
        Path | None, typer.Option(help="Write the first 32 pictures to this name plus .png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Paint captions with DDIM and print the share of right pictures by attribute."""
    if threads:
        torch.set_num_threads(threads)
    scenes = scenes_to_ask(prompts, seed, held_out)
    pictures = paint(load_pipeline(model), [scene.caption() for scene in scenes], steps, guidance, seed)
    if grid is not None:
        RunFolder(grid.parent).save_grid(grid.name, pictures[:32], 8)
    scores = read_scores(pictures, scenes)
    if as_json:
        settings = {
            "prompts": prompts,
            "steps": steps,
            "guidance": guidance,
            "held_out": held_out,
            "seed": seed,
        }
        typer.echo(json.dumps({**settings, **asdict(scores)}))
        return
    kind = "held-out" if held_out else "trained"
    typer.echo(f"{prompts} {kind} captions, {steps} DDIM steps, guidance {guidance:g}, seed {seed}")
    typer.echo(f"  {'':<14}attributes  wholly right")
    rows = (
        ("all", scores.accuracy, scores.all_right),
        ("one thing", scores.accuracy_one, scores.all_right_one),
        ("two things", scores.accuracy_two, scores.all_right_two),
    )
    for name, share, whole in rows:
        if share is not None and whole is not None:
            typer.echo(f"  {name:<14}{share:10.1%}{whole:14.1%}")
    for name, share in scores.by_attribute.items():
        typer.echo(f"  {name:<14}{share:10.1%}")


main.__doc__ = f"{main.__doc__}\n{_EXAMPLES}"


if __name__ == "__main__":
    typer.run(main)
