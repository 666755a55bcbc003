"""Every error that the product raises on purpose, in one small family.

A message says *where* it went wrong (a file, a device, an option), *what* is wrong there, and *what to do*.
The command line prints it without a trace and exits with :attr:`DdimcacheError.exit_code`. Anything that is
not a :class:`DdimcacheError` is a defect of the product.
"""

from __future__ import annotations

from os import PathLike


class DdimcacheError(Exception):
    """Base of the family.

    Parameters
    ----------
    what : what is wrong, as a clause without a final full stop.
    where : the file, device, tensor or option it is about; put in front of the message.
    remedy : what the reader can do about it; put behind the message.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str | PathLike[str] | None = None, remedy: str | None = None
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(what, self.where, remedy)

    def __str__(self) -> str:
        message = self.what if self.where is None else f"{self.where}: {self.what}"
        return message if self.remedy is None else f"{message}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def _rebuild(kind: type[DdimcacheError], what: str, where: str | None, remedy: str | None) -> DdimcacheError:
    """Make an error again after it crossed a process boundary."""
    return kind(what, where=where, remedy=remedy)


class UsageError(DdimcacheError):
    """An option or argument is outside what it may be; the command line exits with 2."""

    exit_code = 2


class FrontendError(DdimcacheError):
    """A model folder cannot be read, or holds something that is not supported."""


class CompileError(DdimcacheError):
    """A model that was read cannot be compiled for the target asked for."""


class BundleError(DdimcacheError):
    """A compiled bundle is missing, torn, altered, or of a version that this runtime does not read."""


class DeviceError(DdimcacheError):
    """A device is not there, lacks something that is needed, or failed."""


class RemoteError(DeviceError):
    """A device behind an RPC server cannot be reached, or broke off."""


class CancelledError(DdimcacheError):
    """An image was ended before it was done."""
