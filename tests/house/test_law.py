"""The house law of docs/house.md, held against every import statement in the package."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vesalius"
FILES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "core": set(),
    "io": {"core"},
    "transforms": {"core"},
    "models": {"core"},
    "metrics": {"core"},
    "tasks": {"core", "transforms"},
    "pipeline": {"core", "io", "transforms", "models", "metrics", "tasks"},
    "training": {"core", "io", "transforms", "models", "metrics", "tasks", "pipeline"},
    "apps": {"core", "io", "transforms", "models", "metrics", "tasks", "pipeline", "training"},
}
TORCH_ROOMS = {"models", "pipeline", "training"}
TORCH_LIBRARIES = {"torch", "accelerate", "monai", "batchgeneratorsv2", "torchvision", "tensorboard"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "managers", "misc"}
LONGEST_FILE = 450


def name_of(path: Path) -> str:
    """vesalius/io/files.py -> vesalius.io.files; a package's __init__ -> the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The room a module lies in; None for the two files at the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else None


def imports_of(path: Path, *, source: str | None = None, nested: bool = True) -> set[str]:
    """Every module that a file imports, in full; with `nested` also inside functions and `if TYPE_CHECKING`."""
    tree = ast.parse(source if source is not None else path.read_text(encoding="utf-8"))
    found: set[str] = set()
    here = name_of(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def trespasses(path: Path, source: str | None = None) -> list[str]:
    """The imports of one file that the law forbids, in words."""
    room = room_of(name_of(path))
    if room is None:
        return []
    wrong = []
    for target in sorted(imports_of(path, source=source)):
        library, other = target.split(".")[0], room_of(target) if target.startswith("vesalius.") else None
        if other and other != room and other not in MAY_IMPORT[room]:
            wrong.append(f"{name_of(path)} imports {target}: {room} may not know {other}")
        if library in TORCH_LIBRARIES and room not in TORCH_ROOMS:
            wrong.append(f"{name_of(path)} imports {target}: {library} stays out of {room}")
        if room == "core" and library not in sys.stdlib_module_names | {"numpy", "vesalius"}:
            wrong.append(f"{name_of(path)} imports {target}: core knows numpy only")
    return wrong


def test_every_room_imports_only_what_the_law_allows():
    assert [line for path in FILES for line in trespasses(path)] == []


@pytest.mark.parametrize(
    "room, source",
    [
        ("io", "from ..transforms import spatial"),
        ("io", "from .. import metrics"),
        ("metrics", "import vesalius.io.files"),
        ("transforms", "def late():\n    from ..pipeline.tiled import tiled"),
        ("tasks", "from ..models.catalog import CATALOG"),
        ("pipeline", "from ..training.loop import train"),
        ("apps", "import torch"),
        ("io", "import torch.nn as nn"),
        ("core", "import scipy"),
    ],
)
def test_the_law_notices_a_planted_trespass(room, source):
    assert trespasses(PACKAGE / room / "planted.py", source), f"{room}: {source!r} went unnoticed"


def test_the_law_itself_has_no_circle():
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("core") == 0 and order.index("apps") == len(order) - 1


def test_modules_import_each_other_in_no_circle():
    names = {name_of(path) for path in FILES}
    graph = {}
    for path in FILES:
        targets = imports_of(path, nested=False)
        # `from .image import Grid` names an attribute: the module is the longest prefix that exists.
        known = {target if target in names else target.rpartition(".")[0] for target in targets}
        graph[name_of(path)] = {target for target in known & names if target != name_of(path)}
    graphlib.TopologicalSorter(graph).prepare()


def test_every_folder_of_the_package_is_a_known_room():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"weights"} == set(MAY_IMPORT)


def test_room_init_files_stay_empty():
    full = [str(path) for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE and path.read_text().strip()]
    assert full == []


def test_no_module_is_called_by_what_it_happens_to_hold():
    assert [str(path.relative_to(ROOT)) for path in FILES if FORBIDDEN_NAMES & set(path.with_suffix("").parts)] == []


def test_no_file_is_longer_than_a_reader_can_hold():
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > LONGEST_FILE}
    assert long == {}


def test_public_names_are_sorted_and_every_one_can_be_had():
    vesalius = importlib.import_module("vesalius")
    assert vesalius.__all__ == sorted(vesalius.__all__) == sorted(vesalius._HOMES)
    assert [name for name in vesalius.__all__ if not callable(getattr(vesalius, name))] == []
    assert set(vesalius.__all__) <= set(dir(vesalius))
    with pytest.raises(AttributeError, match="no_such_name"):
        vesalius.no_such_name  # noqa: B018


def test_importing_the_package_or_printing_help_loads_no_heavy_library():
    script = (
        "import sys, vesalius\n"
        "sys.argv = ['vesalius', '--help']\n"
        "from vesalius.apps.cli import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'skimage', 'pydantic', 'nibabel', 'pydicom', 'monai'} & set(sys.modules)\n"
        "print('LOADED', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert "segment" in done.stdout and "train" in done.stdout
