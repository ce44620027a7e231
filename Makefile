# make setup    the virtual environment, once
# make demo     segment the examples and compare them with their references
# make test     every test
# make check    ruff, mypy and the house law
# make bench    the benchmarks; prints ratios, fails on nothing
# make docs     docs/cli.md from the commands' own --help, docs/rooms.md from the files' own first lines
# make clean    what the above left behind, the environment included

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Vesalius needs Python 3.11 or later; say which with: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

bench: setup
	@for each in metrics inference augmentation sam models; do echo "== $$each"; $(BIN)/python benchmarks/$$each.py || exit 1; done

docs: setup
	$(BIN)/python -m typer vesalius.apps.cli utils docs --name vesalius --title "The command line" --output docs/cli.md
	$(BIN)/python tests/house/rooms.py > docs/rooms.md

clean:
	rm -rf $(VENV) build dist *.egg-info demo_out .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
