"""``ddimcache inspect --adreno``: a bundle's kernels as the Adreno 740's compiler sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ddimcache.commands.terminal import print_json, print_table, progress, say, seconds_text

TARGET = "adreno-740"


def inspect_adreno(bundle: Path, lab_folder: Path | None, size: tuple[int, int], as_json: bool) -> None:
    """Print the ISA statistics of every kernel of a bundle, or of a model compiled for the Adreno 740.

    ``size`` is a picture size in pixels, (0, 0) for all of a bundle's, or the model's own.

    Raises :class:`ddimcache.adreno.lab.LabError` where there is no lab, :class:`BundleError` for a bundle
    that was not compiled for OpenCL.
    """
    from ddimcache.adreno import lab
    from ddimcache.adreno.report import compile_kernels, count_kernels, describe
    from ddimcache.runtime.bundle import is_bundle, open_bundle

    if lab_folder is not None:
        os.environ["ADRENO_LAB"] = str(lab_folder)
    lab.require()
    if is_bundle(bundle) or not (bundle / "model_index.json").is_file():
        opened = open_bundle(bundle)
        if size != (0, 0):
            opened = opened.at(size)
    else:
        from ddimcache.commands.choose import compiled
        from ddimcache.compiler.options import CompileOptions

        opened = compiled(
            bundle,
            CompileOptions(target=TARGET, host="aarch64-linux-gnu", width=size[0], height=size[1]),
            progress(),
        )
    total = count_kernels(opened)
    with progress().stage("compile for Adreno 740", total) as stage:
        reports = compile_kernels(opened, stage.advance)
    facts = describe(opened, reports)
    print_json(facts) if as_json else _report(facts)


def _report(facts: dict[str, Any]) -> None:
    rows = []
    per_call = facts["model"]["seconds"]
    for kernel in sorted(facts["kernels"], key=_weight, reverse=True):
        for part in kernel["functions"]:
            share = part["multiply_add_share"]
            rows.append(
                (
                    part["name"].removesuffix("_kernel"),
                    kernel["component"],
                    ", ".join(f"{function} {count}" for function, count in kernel["calls"].items()),
                    str(part["instructions"]),
                    str(part["registers"]),
                    f"{part['waves']}x{part['wave_size']}",
                    "–" if share is None else f"{share:.0%}",
                    seconds_text(kernel["modelled_seconds"]),
                    kernel["limit"],
                    "; ".join(kernel["breaks"]),
                )
            )
    heading = (
        *("kernel", "component", "calls", "instructions", "registers", "waves", "multiply-adds"),
        *("model: a launch", "limit", "breaks"),
    )
    print_table(rows, heading, right=(3, 4, 5, 6, 7))
    print(f"\n{facts['broken']} of {len(facts['kernels'])} kernels break a demand (docs/adreno.md)\n")
    shown = ("full", "cached", "decode")
    groups = [
        (
            group["group"],
            str(group["kernels"]),
            str(group["broken"]),
            str(group["spilled"]),
            *(seconds_text(group["modelled_seconds"].get(name, 0.0)) for name in shown),
        )
        for group in facts["groups"]
    ]
    titles = ("kernels", "number", "break a demand", "spill", *(f"model: {name}" for name in shown))
    print_table(groups, titles, right=(1, 2, 3, 4, 5, 6))
    print()
    print_table(
        [(name, seconds_text(seconds)) for name, seconds in per_call.items()],
        ("model: a call of", "model: time"),
    )
    print()
    pictures = [
        (
            f"{picture['steps']} guided steps, cache interval {picture['cache_interval']}",
            seconds_text(picture["modelled_seconds"]),
            "–" if picture["published_seconds"] is None else seconds_text(picture["published_seconds"]),
            picture["published_by"] or "",
        )
        for picture in facts["model"]["pictures"]
    ]
    print_table(pictures, ("model: a picture with text and decoder", "model: time", "published", "by"))
    say("\na model over what Mesa's compiler says, assumptions in docs/adreno.md; no phone was measured")


def _weight(kernel: dict[str, Any]) -> float:
    return float(kernel["modelled_seconds"]) * sum(kernel["calls"].values())
