"""One component of a bundle by itself, for those who call its functions with tensors of their own."""

from __future__ import annotations

from typing import Any

from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.native import answer_of, native


class LoadedComponent:
    """A library of the bundle with its weights on a local device.

    Of a bundle at one of its sizes the functions are that size's, by their plain names.

    Raises :class:`BundleError` for a library or weights that do not fit the manifest, :class:`DeviceError`
    when the device is of another kind than the bundle or absent.
    """

    def __init__(self, bundle: Bundle, name: str, device: DeviceSpec) -> None:
        answer = native("open_component")(str(bundle.folder), name, str(device))
        if isinstance(answer, bytes):
            answer_of(answer)
        self._module: Any = answer
        self._names = {
            function: bundle.function_name(name, function)
            for function in bundle.manifest.components[name].functions
        }

    def call(self, function: str, *arguments: Any) -> Any:
        """Run a function of the component with its weights."""
        return self._module[self._names[function]](*arguments)
