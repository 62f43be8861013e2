"""What several test files share: whole error messages, and a few small inputs."""

import re

import pytest

from repsim import ImageSet, load_data


def exactly(text: str) -> str:
    """A pattern for `pytest.raises(match=...)` that matches this text and no other."""
    return rf"\A{re.escape(text)}\Z"


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """150 digits of the test split, every class in proportion. Tests must not write into it."""
    return load_data("digits", limit=150)
