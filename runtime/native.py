"""Calls of the C++ session (``runtime/cc/session/``), in messages like those of a remote one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ddimcache.errors import DeviceError
from ddimcache.runtime import plugin
from ddimcache.runtime.rpc_protocol import pack, read_reply, unpack

_PREFIX = "ddimcache.device_session."


def native(name: str) -> Any:
    """Return a function of the C++ session; raises :class:`DeviceError` when the library is not loaded."""
    import tvm  # noqa: F401  importing it loads the library
    import tvm_ffi

    if (problem := plugin.problem()) is not None:
        raise DeviceError(problem, where="ddimcache's library", remedy="see `ddimcache doctor`")
    return tvm_ffi.get_global_func(_PREFIX + name)


def ask(function: Callable[[bytes], Any], head: dict[str, Any], body: bytes = b"") -> tuple[Any, bytes]:
    """Send a message and return result and raw bytes of the reply; raises as :func:`answer_of`."""
    return answer_of(function(pack(head, body)))


def answer_of(reply: Any) -> tuple[Any, bytes]:
    """Return result and raw bytes of a reply.

    Raises the class of :mod:`ddimcache.errors` that the reply carries, RuntimeError for a defect inside.
    """
    message = bytes(reply)
    error = unpack(message)[0].get("error")
    if error is not None and error.get("kind") == "InternalError":
        raise RuntimeError(f"{error.get('where')}: {error.get('what')}")
    return read_reply(message)
