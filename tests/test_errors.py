"""The errors carry their message across processes and their exit status to the command line."""

import pickle

import pytest

from ddimcache import errors
from ddimcache.errors import DdimcacheError, FrontendError, UsageError

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FrontendError("is torn"), "is torn"),
        (FrontendError("is torn", where="unet/a.safetensors"), "unet/a.safetensors: is torn"),
        (FrontendError("is torn", remedy="copy it again"), "is torn; copy it again"),
        (UsageError("is no number", where="--steps", remedy="use 1"), "--steps: is no number; use 1"),
    ],
)
def test_a_message_says_where_what_and_what_to_do(error: DdimcacheError, message: str) -> None:
    assert str(error) == message
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.where) == (type(error), message, error.where)


def test_only_wrong_usage_exits_with_two() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) >= 7
    assert all(issubclass(kind, DdimcacheError) for kind in kinds)
    assert {kind.__name__ for kind in kinds if kind.exit_code == 2} == {"UsageError"}
