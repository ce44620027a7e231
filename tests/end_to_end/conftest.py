"""The command line in this process, and tiny weights for it, so that nothing here depends on the shipped ones."""

from pathlib import Path

import pytest
from specimens import save_tiny
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def run():
    """Call the command line in this process: `run('segment', path, '-o', out)` -> result with exit_code, stdout, stderr."""
    from vesalius.apps.cli import app

    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words], prog_name="vesalius")


@pytest.fixture(scope="session")
def picture_weights(tmp_path_factory) -> Path:
    """For RGB pictures."""
    from vesalius.transforms.intensity import Scale

    path = tmp_path_factory.mktemp("weights") / "picture.safetensors"
    return save_tiny(path, dims=2, channels=("red", "green", "blue"), steps=(Scale(),))


@pytest.fixture(scope="session")
def volume_weights(tmp_path_factory) -> Path:
    """For one-channel volumes, at 1 mm."""
    from vesalius.transforms.intensity import ZScore
    from vesalius.transforms.spatial import Orient, Resample

    path = tmp_path_factory.mktemp("weights") / "volume.safetensors"
    return save_tiny(path, dims=3, channels=("MRI",), steps=(Orient(), Resample(spacing_mm=(1.0, 1.0, 1.0)), ZScore()))
