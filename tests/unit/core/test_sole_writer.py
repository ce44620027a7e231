"""One process writes into a folder at a time, and whatever ends it lets the next one in."""

import os
import signal
import subprocess
import sys

import pytest

from vesalius.core.atomic import sole_writer
from vesalius.core.errors import OutputError

pytest.importorskip("fcntl", reason="this system has no such locks")
HOLD = """
import os
import sys
import time
from pathlib import Path
from vesalius.core.atomic import sole_writer
with sole_writer(Path(sys.argv[1])):
    worker, (ends, starts) = "held", os.pipe()
    if len(sys.argv) > 2:
        worker = os.fork()  # as those that load a training's cases
        if worker == 0:
            os.write(starts, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(ends, 1)
    print(worker, flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_gone_even_by_kill(tmp_path):
    run = tmp_path / "deep" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=r"run: another process is writing into this folder\. Wait for it"), sole_writer(run):
        pass
    assert run.is_dir()  # it is the other's
    with sole_writer(run.parent / "fold_1"):  # beside it lies another
        pass
    holder.kill()
    holder.wait()
    with sole_writer(run):
        (run / "plan.toml").touch()
    assert run.is_dir()


def test_a_worker_that_outlives_a_killed_writer_keeps_nobody_out(tmp_path):
    words = [sys.executable, "-c", HOLD, tmp_path / "run", "fork"]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    with pytest.raises(OutputError), sole_writer(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    try:
        os.kill(worker, 0)  # it is still there
        with sole_writer(tmp_path / "run"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_folder_that_stays_empty_is_gone_again_and_a_file_in_its_place_is_the_callers_to_refuse(tmp_path):
    with sole_writer(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with sole_writer(tmp_path / "file"):
        pass
    with pytest.raises(OutputError, match=r"cannot be made|file"), sole_writer(tmp_path / "file" / "run"):
        pass
