"""OpenVINO in a process of its own: a training after it, in one process, ends in a segmentation fault, and so would this run."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")


def test_the_engine_openvino_passes_its_own_tests():
    words = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", str(Path(__file__).with_name("engine_apart.py"))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
