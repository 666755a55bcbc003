"""``ddimcache inspect``: what is in a bundle, without a device."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddimcache.commands.terminal import bytes_text, parse_size, print_json, print_table, say
from ddimcache.errors import UsageError
from ddimcache.manifest import TIMES_AT_ONCE, Manifest
from ddimcache.picture_sizes import manifest_at

if TYPE_CHECKING:
    from ddimcache.runtime.bundle import Bundle

EXAMPLES = """
  ddimcache inspect sd15.bundle

  ddimcache inspect sd15.bundle --source conv2d_f16_winograd4_8x4_texture

  ddimcache inspect sd15.bundle --layers

  ddimcache inspect sd15.bundle --size 640x384 --memory

  ddimcache inspect sd15.bundle --memory

  ddimcache inspect sd15.bundle --adreno

  ddimcache inspect sd15.bundle --json | jq .macs_cached
"""


def inspect_bundle(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    source: Annotated[
        str | None,
        typer.Option(help="Print the device source of this kernel and nothing else.", metavar="KERNEL"),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Print the work of every layer of the model and nothing else.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Show what is in use where each function needs most.")
    ] = False,
    adreno: Annotated[
        bool,
        typer.Option(
            "--adreno",
            help="Show what the Adreno 740's compiler makes of every kernel, and a modelled time. Needs the "
            "lab; takes a model's folder too.",
        ),
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            help="Of a bundle of several picture sizes, show this one as if it were alone.",
            metavar="WIDTHxHEIGHT",
        ),
    ] = None,
    lab: Annotated[
        Path | None,
        typer.Option(help="The Adreno lab's folder (default: ADRENO_LAB).", metavar="DIR"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Show kernels, multiply-accumulates, memory, sizes and what each compiler pass did.

    Checks every file of the bundle on the way. Needs no device.
    """
    if adreno:
        from ddimcache.commands.inspect_adreno import inspect_adreno

        inspect_adreno(bundle, lab, parse_size(size), as_json)
        return
    from ddimcache.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    if size is not None:
        opened = opened.at(parse_size(size))
    if source is not None:
        text = _find_source(opened, source)
        print_json({"kernel": source, "source": text}) if as_json else print(text)
        return
    if layers:
        work = layer_work(opened)
        print_json({"layers": work}) if as_json else _report_layers(work)
        return
    facts = describe(opened)
    if as_json:
        print_json(facts)
    elif memory:
        _report_memory(facts)
    else:
        _report(facts)


def describe(bundle: Bundle) -> dict[str, Any]:
    """Return everything that ``inspect --json`` prints."""
    manifest = bundle.manifest
    width, height = manifest.image_size
    kernels = []
    for component, entry in manifest.components.items():
        sources = bundle.kernel_sources(component)
        layers = _layers_of_kernels(bundle, component)
        workloads = bundle.launches(component).workloads
        kernels += [
            {
                "name": kernel.name,
                "component": component,
                "calls": kernel.calls,
                "macs": kernel.macs,
                "layers": layers.get(kernel.name, []),
                "source": kernel.name in sources,
                "workload": workloads[kernel.name].workload if kernel.name in workloads else None,
                "tuned": workloads[kernel.name].decisions if kernel.name in workloads else {},
            }
            for kernel in entry.kernels
        ]
    return {
        "model": manifest.model,
        "target": manifest.target,
        "profile": manifest.profile,
        "host": manifest.host,
        "weights": manifest.weights,
        "loras": [dataclasses.asdict(lora) for lora in manifest.loras],
        "size": [width, height],
        "sizes": [
            {
                "size": list(size.image_size),
                "macs_full": size.macs_full,
                "macs_cached": size.macs_cached,
                "feature_bytes": size.feature_bytes,
                "activation_bytes": manifest_at(manifest, size.image_size).activation_bytes,
                "components": size.activation_bytes,
            }
            for size in manifest.sizes
        ],
        "batch": manifest.batch,
        "cut": manifest.cut,
        "cuts": manifest.cuts,
        "macs_full": manifest.macs_full,
        "macs_cached": manifest.macs_cached,
        "macs_once": manifest.macs_once,
        "macs_saved": {
            "full": manifest.macs_saved_full,
            "cached": manifest.macs_saved_cached,
            "image": _saved_an_image(manifest),
        },
        "macs_guided": manifest.macs_guided,
        "activation_bytes": manifest.activation_bytes,
        "weights_bytes": manifest.weights_bytes,
        "feature_bytes": manifest.feature_bytes,
        "components": {
            name: {
                "weights_bytes": entry.weights_bytes,
                "activation_bytes": entry.activation_bytes,
                "library_bytes": manifest.files[entry.library].bytes,
                "kernels": len(entry.kernels),
                "peaks": [dataclasses.asdict(peak) for peak in entry.peaks],
            }
            for name, entry in manifest.components.items()
        },
        "kernels": kernels,
        "passes": [dataclasses.asdict(entry) for entry in manifest.passes],
        "built_with": manifest.built_with,
        "identity": bundle.identity,
    }


IMAGE_STEPS, IMAGE_INTERVAL = 50, 5
"""The guided image of which ``inspect`` says what is saved: what ``generate`` draws unless told otherwise."""


def _saved_an_image(manifest: Manifest) -> int:
    """Multiply-accumulates of an image, two UNet calls a step, less those of what is computed once."""
    full = -(-IMAGE_STEPS // IMAGE_INTERVAL)
    once = manifest.macs_once
    steps = full * manifest.macs_saved_full + (IMAGE_STEPS - full) * manifest.macs_saved_cached
    embedded = -(-IMAGE_STEPS // TIMES_AT_ONCE) * once.get("embed_time", 0)
    return 2 * (steps - once.get("project_context", 0)) - embedded


def layer_work(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the work of every layer in each function, in the order in which layers are first launched.

    ``launches``, ``macs``, ``flops`` and ``bytes`` (read and written) are of one call of the function.
    """
    work: dict[tuple[str, str, str], dict[str, Any]] = {}
    for component in bundle.manifest.components:
        for function, launches in bundle.launches(component).functions.items():
            for launch in launches:
                key = {"component": component, "function": function, "layer": launch.layer}
                nothing = {**key, "launches": 0, "macs": 0, "flops": 0, "bytes": 0}
                entry = work.setdefault((component, function, launch.layer), nothing)
                entry["launches"] += 1
                entry["macs"] += launch.macs
                entry["flops"] += launch.flops
                entry["bytes"] += launch.bytes_read + launch.bytes_written
    return list(work.values())


def _layers_of_kernels(bundle: Bundle, component: str) -> dict[str, list[str]]:
    """The layers that each kernel of a component computes, each once, in the order of their launches."""
    layers: dict[str, dict[str, None]] = {}
    for launches in bundle.launches(component).functions.values():
        for launch in launches:
            layers.setdefault(launch.kernel, {})[launch.layer] = None
    return {kernel: list(found) for kernel, found in layers.items()}


def _report_layers(work: list[dict[str, Any]]) -> None:
    rows = [
        (
            entry["component"],
            entry["function"],
            entry["layer"],
            str(entry["launches"]),
            f"{entry['macs'] / 1e6:.4g}",
            f"{entry['flops'] / 1e6:.4g}",
            f"{entry['bytes'] / 1e6:.4g}",
        )
        for entry in work
    ]
    heading = ("component", "function", "layer", "launches", "MMAC", "MFLOP", "MB")
    print_table(rows, heading, right=(3, 4, 5, 6))
    say("\nof one call of the function; MB counts each argument of a launch once")


def _find_source(bundle: Bundle, name: str) -> str:
    known: list[str] = []
    for component in bundle.manifest.components:
        sources = bundle.kernel_sources(component)
        if name in sources:
            return sources[name]
        known += sources
    near = [other for other in known if name in other][:5]
    hint = f"did you mean {', '.join(near)}?" if near else "`ddimcache inspect BUNDLE` lists the kernels"
    raise UsageError(f"no kernel {name!r} with a source is in the bundle", where="--source", remedy=hint)


def _report_memory(facts: dict[str, Any]) -> None:
    rows = []
    for name, part in facts["components"].items():
        planned = bytes_text(part["activation_bytes"])
        for peak in part["peaks"]:
            rows.append((name, peak["function"], planned, bytes_text(peak["bytes"]), "", ""))
            for tensor in sorted(peak["tensors"], key=lambda tensor: -tensor["bytes"]):
                shape = "×".join(map(str, tensor["shape"]))
                rows.append(("", "", "", bytes_text(tensor["bytes"]), shape, tensor["kernel"]))
    print_table(rows, ("component", "function", "planned", "in use", "shape", "written by"), right=(2, 3))


def _report(facts: dict[str, Any]) -> None:
    sizes = ", ".join("×".join(map(str, entry["size"])) for entry in facts["sizes"])
    share = facts["macs_cached"] / facts["macs_full"] if facts["macs_full"] else 0
    print_table(
        [
            ("model", facts["model"]),
            ("target", f"{facts['target']} ({facts['profile']}), host {facts['host']}"),
            ("picture", f"{sizes}, batch {facts['batch']}"),
            ("weights", f"{facts['weights']}, {bytes_text(facts['weights_bytes'])}"),
            *(("LoRA", f"{lora['name']}, scale {lora['scale']:g}") for lora in facts["loras"]),
            ("activations", f"{bytes_text(facts['activation_bytes'])} planned"),
            (
                "cut",
                f"{facts['cut']} of 0 … {facts['cuts'] - 1}, feature {bytes_text(facts['feature_bytes'])}",
            ),
            ("full step", f"{facts['macs_full'] / 1e9:.4g} GMAC"),
            ("cached step", f"{facts['macs_cached'] / 1e9:.4g} GMAC, {share:.1%}"),
            *_guided(facts["macs_guided"]),
            *_once(facts),
        ]
    )
    print()
    if len(facts["sizes"]) > 1:
        _report_sizes(facts["sizes"])
    print_table(
        [
            (
                name,
                bytes_text(part["weights_bytes"]),
                bytes_text(part["activation_bytes"]),
                bytes_text(part["library_bytes"]),
                str(part["kernels"]),
            )
            for name, part in facts["components"].items()
        ],
        ("component", "weights", "activations", "library", "kernels"),
        right=(1, 2, 3, 4),
    )
    print()
    rows = [
        (
            kernel["name"],
            kernel["component"],
            ", ".join(f"{function} {count}" for function, count in kernel["calls"].items()),
            f"{kernel['macs'] / 1e6:.4g}",
            "yes" if kernel["source"] else "no",
            "record" if kernel["tuned"] else "default" if kernel["workload"] else "",
            _layers_text(kernel["layers"]),
        )
        for kernel in facts["kernels"]
    ]
    if rows:
        heading = ("kernel", "component", "calls", "MMAC a call", "source", "tiles", "layers")
        print_table(rows, heading, right=(3,))
        print()
    passes = [
        (entry["name"], entry["component"], str(entry["changes"]), entry["note"]) for entry in facts["passes"]
    ]
    if passes:
        print_table(passes, ("pass", "component", "changes", "what it did"), right=(2,))
    say("\nnext: --layers shows the work by layer, --source KERNEL a kernel, --json all of this for scripts")


def _report_sizes(sizes: list[dict[str, Any]]) -> None:
    """What differs by picture size; all else above is of the first."""
    parts = list(sizes[0]["components"])
    rows = [
        (
            "×".join(map(str, entry["size"])),
            f"{entry['macs_full'] / 1e9:.4g}",
            f"{entry['macs_cached'] / 1e9:.4g}",
            bytes_text(entry["feature_bytes"]),
            bytes_text(entry["activation_bytes"]),
            *(bytes_text(entry["components"].get(part, 0)) for part in parts),
        )
        for entry in sizes
    ]
    heading = ("size", "full GMAC", "cached GMAC", "feature", "activations", *parts)
    print_table(rows, heading, right=tuple(range(1, len(heading))))
    print()


def _guided(macs: dict[str, int]) -> list[tuple[str, str]]:
    """What a step takes where both prompts of guidance are one call."""
    if not macs:
        return []
    full, cached = (f"{macs[name] / 1e9:.4g} GMAC" for name in ("full", "cached"))
    return [("both prompts", f"one call: full step {full}, cached step {cached}")]


def _once(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What is computed before the steps, and what that saves."""
    once, saved = facts["macs_once"], facts["macs_saved"]
    often = {"embed_time": f"{TIMES_AT_ONCE} steps", "project_context": "a prompt"}
    rows = [
        (f"once for {often.get(name, 'a masked picture')}", f"{name}, {macs / 1e9:.3g} GMAC")
        for name, macs in once.items()
    ]
    if rows:
        text = f"{saved['full'] / 1e9:.3g} GMAC a full step, {saved['cached'] / 1e9:.3g} a cached one, "
        image = f"{saved['image'] / 1e9:.3g} an image of {IMAGE_STEPS} guided steps at n = {IMAGE_INTERVAL}"
        rows.append(("saved by that", text + image))
    return rows


def _layers_text(layers: list[str]) -> str:
    """The layer of a kernel, and how many more it computes."""
    return " ".join([*layers[:1], *([f"and {len(layers) - 1} more"] if len(layers) > 1 else [])])
