"""The package works where there is no checkout: built as a wheel, installed elsewhere, weights included."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from specimens import picture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout stays clean."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "vesalius", source / "vesalius", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next(dist.glob("vesalius-*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Where the wheel is unpacked, as pip does, with nothing of the checkout in sight."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run_elsewhere(site, *words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_wheel_holds_every_module_and_all_weights(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "vesalius"
    wanted = [*package.rglob("*.py"), *package.glob("weights/*.safetensors"), package / "py.typed"]
    assert {str(path.relative_to(ROOT)) for path in wanted} - inside == set()
    assert any(name.endswith("LICENSE") for name in inside)


def test_the_installed_package_segments_outside_the_checkout(elsewhere, tmp_path, picture_weights):
    where = run_elsewhere(elsewhere, "-c", "import vesalius; print(vesalius.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(elsewhere)), where.stderr
    image = picture(tmp_path / "case.png")
    done = run_elsewhere(
        elsewhere, "-m", "vesalius", "segment", image, "-o", "out", "--model", "unet", "--weights", picture_weights, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "case.png").is_file()


def test_the_shipped_weights_are_found_outside_the_checkout(elsewhere, tmp_path):
    script = (
        "import vesalius\n"
        "from vesalius.tasks.catalog import TASKS\n"
        "for name, task in TASKS.items():\n"
        "    if task.weights:\n"
        "        print(name, vesalius.load(name).weights[0])\n"
    )
    done = run_elsewhere(elsewhere, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(str(elsewhere) in line for line in done.stdout.splitlines())
