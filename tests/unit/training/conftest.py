"""A small dataset of pictures and one of volumes, made on the spot, that a tiny network can learn from."""

from pathlib import Path

import pytest
from trainable import pictures, volumes


@pytest.fixture(scope="session")
def picture_set(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def volume_set(tmp_path_factory) -> Path:
    return volumes(tmp_path_factory.mktemp("volumes"))
