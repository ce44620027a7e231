"""Fixtures shared by all suites."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public images beside the checkout; skips where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real images are not here: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """The folder of reference tensors beside the checkout; skips where it is absent."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"reference tensors are not here: {folder} does not exist")
    return folder
