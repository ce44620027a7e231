"""The example in the docstring of every public name runs, and gives what it says, on the examples that we ship."""

import doctest
import shutil
from pathlib import Path

import pytest
from specimens import picture, save_tiny_sam

import vesalius
from vesalius.io.files import read_mask

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder of one's own with our examples, a small dataset and a recipe of four steps."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for i in range(4):
        picture(tmp_path / "dataset" / "images" / f"case{i}.png", size=(48, 48), seed=i)
        picture(tmp_path / "dataset" / "masks" / f"case{i}.png", size=(48, 48), mode="1")
    (tmp_path / "short.toml").write_text("steps_per_epoch = 4\nbatch = 2\nworkers = 0\n")
    picture(tmp_path / "polyp.png", size=(40, 36))
    save_tiny_sam(tmp_path / "sam.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", vesalius.__all__)
def test_the_example_of_every_public_name_holds(name, workplace):
    names = {"vesalius": vesalius, "read_mask": read_mask}
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(vesalius, name), name, globs=names)
    assert found.examples, f"vesalius.{name} has no example in its docstring"
    told = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=told.append)
    assert result.failed == 0, "".join(told)


def test_the_example_of_the_package_holds():
    assert doctest.testmod(vesalius).failed == 0 and vesalius.__doc__.count(">>>") == 2
