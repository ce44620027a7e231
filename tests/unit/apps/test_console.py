"""What the terminal prints, where, and with which exit code."""

import errno
import json
import logging
import os
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import typer

from vesalius.apps.console import plain, terminal
from vesalius.core.errors import UnreadableFile


@dataclass(frozen=True)
class Found:
    name: str
    score: float


def fail_with(error, **options):
    """Exit code of a verb that raises `error`."""
    with pytest.raises(typer.Exit) as stopped, terminal(**{"quiet": False, "json": False, "debug": False, **options}):
        raise error
    return stopped.value.exit_code


def test_a_fault_of_the_input_is_one_line_and_exit_code_2(capsys):
    error = UnreadableFile("the file is\n truncated", file="a.png", fix="copy it again")
    assert fail_with(error) == 2
    assert capsys.readouterr() == ("", "error: a.png: the file is truncated. Copy it again.\n")


def test_a_name_too_long_for_the_disk_is_the_users_to_mend(capsys):
    assert fail_with(OSError(errno.ENAMETOOLONG, "File name too long", "runs/" + "n" * 300)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: runs/nnn") and "Choose a shorter one" in said and len(said) < 200


@pytest.mark.parametrize("code, said", [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the quota of this disk is used up")])
def test_a_full_disk_is_the_users_to_mend(code, said, capsys):
    assert fail_with(OSError(code, os.strerror(code))) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}. Free some space")


def test_a_fault_of_ours_is_one_line_and_exit_code_3(capsys):
    assert fail_with(ZeroDivisionError("by zero\nagain")) == 3
    err = capsys.readouterr().err
    assert err.startswith("internal error: ZeroDivisionError: by zero again. --debug") and err.count("\n") == 1


def test_debug_shows_the_traceback(capsys):
    assert fail_with(ZeroDivisionError("by zero"), debug=True) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(capsys):
    assert fail_with(KeyboardInterrupt(), json=True) == 130
    out, err = capsys.readouterr()
    assert "--resume" in err and json.loads(out) == {"error": "interrupted", "exit_code": 130}


def test_an_error_in_json_is_a_document_on_stdout_and_a_line_on_stderr(capsys):
    assert fail_with(UnreadableFile("it is empty", file="a.png"), json=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "a.png: it is empty", "exit_code": 2} and err == "error: a.png: it is empty.\n"


@pytest.mark.parametrize(
    "options, out, err", [({}, "hello\n", ""), ({"quiet": True}, "", ""), ({"json": True}, "[1]\n", "hello\n"),
                          ({"json": True, "quiet": True}, "[1]\n", "")]
)
def test_people_and_programs_each_get_their_stream(options, out, err, capsys):
    with terminal(**{"quiet": False, "json": False, "debug": False, **options}) as screen:
        screen.say("hello")
        screen.result([1])
    heard = capsys.readouterr()
    assert (heard.out.replace("[\n  1\n]", "[1]"), heard.err) == (out, err)


def test_the_code_that_a_verb_sets_is_the_exit_code():
    with pytest.raises(typer.Exit) as stopped, terminal(quiet=True, json=False, debug=False) as screen:
        screen.code = 1
    assert stopped.value.exit_code == 1


def test_libraries_beneath_are_hushed_and_heard_again_afterwards(capsys):
    logger = logging.getLogger("some.library")
    with terminal(quiet=False, json=False, debug=False):
        warnings.warn("of no interest", stacklevel=1)
        logger.error("of no interest")
    assert capsys.readouterr() == ("", "") and logger.isEnabledFor(logging.ERROR)


def test_results_become_plain_json():
    data = {1: Found("a", np.float32(0.5)), "nan": float("nan"), "inf": np.inf, "flags": (np.bool_(1), None), "n": np.int64(3)}
    assert plain(data) == {"1": {"name": "a", "score": 0.5}, "nan": None, "inf": None, "flags": [True, None], "n": 3}
