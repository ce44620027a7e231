"""docs/rooms.md: what every file of the package is for, in the first line of its docstring.

    python tests/house/rooms.py > docs/rooms.md        (`make docs`)
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "io", "transforms", "models", "models/sam", "metrics", "tasks", "pipeline", "training", "apps")
HEAD = """# The rooms, file by file

The first line of every file's docstring; `make docs` writes this page. Who may import whom stands in [house.md](house.md),
what each room offers the others in [contracts.md](contracts.md)."""


def rooms() -> str:
    """The page. Raises AssertionError for a file that does not say what it is for."""
    parts = [HEAD]
    for room in ROOMS:
        files = sorted(file for file in (ROOT / "vesalius" / room).glob("*.py") if file.name != "__init__.py")
        lines = [f"| `{file.name}` | {purpose(file)} |" for file in files]
        parts.append("\n".join([f"## {room}\n\n| file | |\n|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


def purpose(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert said, f"{file} does not say what it is for"
    return said.splitlines()[0].replace("|", "\\|")


if __name__ == "__main__":
    print(rooms(), end="")
