"""A bundle of several picture sizes as one of its sizes has it alone.

Functions and sampler's kernels of every size but the first have names that end in it, ``full_640x384``; what
does not depend on the size (``encode`` of texts, ``embed_time``) is there once. Whoever looks at one size
sees plain names here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from ddimcache.launches import LaunchLists
from ddimcache.manifest import Component, Manifest, PictureSize


@dataclass(frozen=True)
class PlainNames:
    """``suffix`` ends the names of one size, nothing for the first; ``others`` end those of other sizes."""

    suffix: str = ""
    others: tuple[str, ...] = ()

    @classmethod
    def of_size(cls, manifest: Manifest, size: PictureSize) -> PlainNames:
        """Those of an entry of ``manifest.sizes``."""
        own = manifest.suffix_of(size)
        suffixes = [manifest.suffix_of(other) for other in manifest.sizes]
        return cls(own, tuple(suffix for suffix in suffixes if suffix not in ("", own)))

    def of(self, names: Iterable[str]) -> dict[str, str]:
        """Plain names by names: of what this size has by itself, and of what all sizes share."""
        ours = [name for name in names if not name.endswith(self.others)]
        own = {name: name.removesuffix(self.suffix) for name in ours if name.endswith(self.suffix)}
        made = set(own.values())
        return {name: own.get(name, name) for name in ours if name in own or name not in made}


def manifest_at(manifest: Manifest, image_size: tuple[int, int] | None) -> Manifest:
    """What ``manifest`` would be if the bundle had the size (width, height) alone, the first for None.

    Files stay as they are. Raises :class:`UsageError` for a size that it does not have.
    """
    size = manifest.size_of(image_size)
    if not manifest.more_sizes:
        return manifest
    names = PlainNames.of_size(manifest, size)
    components = {
        name: _component_at(component, names, size.activation_bytes.get(name, component.activation_bytes))
        for name, component in manifest.components.items()
    }
    own = {entry.name: getattr(size, entry.name) for entry in dataclasses.fields(size)}
    returned = sum(component.output_bytes for component in components.values())
    own["activation_bytes"] = sum(size.storages) + returned
    own["macs_once"] = {
        plain: manifest.macs_once[name] for name, plain in names.of(manifest.macs_once).items()
    }
    passes = tuple(entry for entry in manifest.passes if entry.size in (None, size.image_size))
    return dataclasses.replace(manifest, **own, components=components, passes=passes, more_sizes=())


def launches_at(lists: LaunchLists, names: PlainNames) -> LaunchLists:
    """The launches of one size; of kernels everything is kept."""
    functions = {plain: lists.functions[name] for name, plain in names.of(lists.functions).items()}
    return dataclasses.replace(lists, functions=functions)


def _component_at(component: Component, names: PlainNames, activation_bytes: int) -> Component:
    functions = names.of(component.functions)
    kernels = []
    for kernel in component.kernels:
        calls = {functions[name]: count for name, count in kernel.calls.items() if name in functions}
        # The sampler's kernels are called by no function of the component.
        if calls or (not kernel.calls and names.of([kernel.name])):
            kernels.append(dataclasses.replace(kernel, calls=calls))
    return dataclasses.replace(
        component,
        functions={plain: component.functions[name] for name, plain in functions.items()},
        kernels=tuple(kernels),
        activation_bytes=activation_bytes,
        peaks=tuple(
            dataclasses.replace(peak, function=functions[peak.function])
            for peak in component.peaks
            if peak.function in functions
        ),
    )
