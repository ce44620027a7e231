"""What is written about the code says the truth, and nothing ties it to one machine."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from house.rooms import rooms

ROOT = Path(__file__).resolve().parents[2]
# Written in pieces, so that this file does not accuse itself.
FORBIDDEN = [
    "/" + "work/",
    "/" + "root/",
    "pypi" + ".org",
    "python" + "hosted.org",
    "download." + "pytorch.org",
    "registry." + "npmjs",
    "/opt/" + "wheels",
]


def tracked_files() -> list[Path]:
    """The files git knows, or skip outside a checkout."""
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git checkout, so nobody knows which files are the project's")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def accusations(text: str) -> list[str]:
    """The forbidden words found in a text."""
    return [word for word in FORBIDDEN if word in text]


def test_no_tracked_file_names_a_machine_or_a_registry():
    guilty = {}
    for path in tracked_files():
        try:
            words = accusations(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if words:
            guilty[str(path.relative_to(ROOT))] = words
    assert guilty == {}


def test_a_planted_machine_path_is_noticed():
    assert accusations("see /" + "work/data") and not accusations("the network, rooted")


def test_the_command_line_page_equals_the_commands_own_help(tmp_path):
    page = tmp_path / "cli.md"
    subprocess.run(
        [sys.executable, "-m", "typer", "vesalius.apps.cli", "utils", "docs", "--name", "vesalius"]  # noqa: RUF005
        + ["--title", "The command line", "--output", page],
        check=True,
        capture_output=True,
        cwd=ROOT,
        timeout=60,
    )
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page.read_text(encoding="utf-8"), "docs/cli.md is out of date: run `make docs`"


def test_the_page_of_rooms_is_that_of_the_files():
    written = (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8")
    assert written == rooms(), "docs/rooms.md is out of date: run `make docs`"


def requirement_name(requirement: str) -> str:
    """The normalised name at the head of a requirement such as `torch>=2.5`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", requirement, maxsplit=1)[0]).lower()


def test_every_requirement_of_the_tests_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    brought = ("test", "train", "jpeg", "itk", "hub", "text")
    wanted = [*project["dependencies"], *(each for name in brought for each in extras[name])]
    pins = {requirement_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {requirement_name(each) for each in wanted} - {"vesalius"} - pins == set()


def test_the_version_is_one_in_all_papers():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_weights_that_are_shipped_stay_small():
    for file in (ROOT / "vesalius" / "weights").glob("*.safetensors"):
        most = 25e6 if file.stem == "vesalius_mini" else 10e6  # the one model that is for every picture
        assert file.stat().st_size <= most, f"{file.name} is larger than {most / 1e6:g} MB"
