"""The command line in this process, and tiny weights for it, so that nothing here depends on the shipped ones."""

from pathlib import Path

import numpy as np
import pytest
from flood import FloodPrompter
from PIL import Image
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


@pytest.fixture
def flood(monkeypatch):
    """The stand-in in place of a model with weights."""
    from vesalius.pipeline import prompted

    prompter = FloodPrompter()
    monkeypatch.setattr(prompted, "load_prompter", lambda *what, **rest: prompter)
    return prompter


@pytest.fixture
def case(tmp_path):
    """30 rows by 50 columns, black, with two bright patches, the second with a brighter core."""
    grey = np.zeros((30, 50), np.uint8)
    grey[4:9, 30:47] = 200
    grey[12:26, 5:15] = 150
    grey[16:20, 8:12] = 250
    path = tmp_path / "case.png"
    Image.fromarray(grey).save(path)
    return path
