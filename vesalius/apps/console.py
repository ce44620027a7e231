"""What the terminal shows: people read tables and bars, programs read JSON, and an error is one line on stderr.

              --quiet      --json          neither
    people    nothing      stderr          stdout
    result    nothing      stdout, JSON    stdout, in words
    errors    stderr       stderr          stderr
"""

from __future__ import annotations

import errno
import json as json_format
import logging
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

import typer

from ..core.atomic import FULL, full
from ..core.errors import InputError
from ..core.names import printable

DONE, SOME_FAILED, USER_ERROR, OUR_ERROR, INTERRUPTED = 0, 1, 2, 3, 130


class Terminal:
    """Where one verb talks to its user. `code` is what the process will exit with."""

    def __init__(self, *, quiet: bool, json: bool, debug: bool):
        from rich.console import Console

        self.quiet, self.json, self.debug = quiet, json, debug
        self.code = DONE
        self.people = Console(stderr=json, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line for people; square brackets are printed as they are."""
        self.people.print(printable(text), markup=False)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
        """A table for people."""
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text("" if cell is None else printable(str(cell)), overflow="fold") for cell in row))
        self.people.print(table, soft_wrap=False)

    def result(self, data: Any) -> None:
        """The result for programs: one JSON document on stdout, if it was asked for."""
        if self.json:
            print(json_format.dumps(plain(data), indent=2, allow_nan=False))

    def record(self, data: dict[str, Any]) -> None:
        """A record for both: a line a field for people, one object for programs."""
        fields = plain(data).items()
        rows = [(key, value if isinstance(value, str) else json_format.dumps(value)) for key, value in fields]
        self.table(("field", "value"), rows)
        self.result(data)

    @contextmanager
    def progress(self, doing: str) -> Iterator[Callable[[float, int, str], None]]:
        """A bar for people at a terminal; yields what to call with things done, things in all, and the thing's name."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.people, transient=True, disable=not self.people.is_terminal) as bar:
            line = bar.add_task(doing, total=None)
            yield lambda done, total, name: bar.update(
                line, completed=done, total=total, description=f"{doing} {printable(name)}"
            )

    def complain(self, line: str) -> None:
        """One line on stderr, whatever --quiet says."""
        print(printable(" ".join(line.split())), file=sys.stderr)


def plain(data: Any) -> Any:
    """`data` as JSON knows it: records become objects, numbers of any library plain ones, NaN and infinity null."""
    if is_dataclass(data) and not isinstance(data, type):
        return plain(asdict(data))
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [plain(value) for value in data]
    if hasattr(data, "item") and not isinstance(data, str):
        data = data.item()
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if data is None or isinstance(data, bool | int | str):
        return data
    return str(data)


@contextmanager
def terminal(*, quiet: bool, json: bool, debug: bool) -> Iterator[Terminal]:
    """The terminal of one verb; whatever the verb raises becomes one line and the right exit code."""
    screen = Terminal(quiet=quiet, json=json, debug=debug)
    try:
        with hushed(debug):
            yield screen
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        screen.complain("interrupted: nothing half-written is left. The same command (train: with --resume) goes on.")
        screen.result({"error": "interrupted", "exit_code": INTERRUPTED})
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        raise typer.Exit(report(error, screen)) from error
    if screen.code:
        raise typer.Exit(screen.code)


def report(error: Exception, screen: Terminal) -> int:
    """Say what went wrong in one line, and return the exit code that belongs to it."""
    if screen.debug:
        traceback.print_exception(error)
    if isinstance(error, InputError):
        line, code = str(error).rstrip("."), USER_ERROR
    elif isinstance(error, OSError) and error.errno in FULL:
        line, code = f"{full(error)}. Free some space or choose another folder", USER_ERROR
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        line, code = f"{str(error.filename)[:60]}...: this name is too long for the disk. Choose a shorter one", USER_ERROR
    else:
        line, code = f"{type(error).__name__}: {error}".rstrip(". ") + ". --debug shows where; please report it", OUR_ERROR
    screen.complain(f"{'error' if code == USER_ERROR else 'internal error'}: {line}.")
    screen.result({"error": line, "exit_code": code})
    return code


@contextmanager
def hushed(debug: bool) -> Iterator[None]:
    """Silence the warnings and logs of the libraries beneath: what matters among them, our readers say themselves."""
    if debug:
        yield
        return
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
