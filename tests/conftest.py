"""What several test files share: whole error messages, and a few small inputs."""

import os
import re
from collections.abc import Iterator

import pytest

from repsim import ImageSet, load_data


def exactly(text: str) -> str:
    """A pattern for `pytest.raises(match=...)` that matches this text and no other."""
    return rf"\A{re.escape(text)}\Z"


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """150 digits of the test split, every class in proportion. Tests must not write into it."""
    return load_data("digits", limit=150)


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests decode goes to a cache of their own, in processes that they start too."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def no_bar() -> Iterator[None]:
    """What is printed does not depend on how busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repsim._common.progress.DELAY", 3600.0)
        yield
