"""A wrong command line ends as every wrong input does: one clear line that names the fix, and exit code 2."""

import json
import subprocess
import sys

import pytest

WRONG = {
    "unknown verb": ("segmen x", ["no verb 'segmen'", "Did you mean 'segment'", "`vesalius --help`"]),
    "a verb nobody could mean": ("xyzzy", ["no verb 'xyzzy'", "Known: ", "train"]),
    "unknown verb of a verb": ("models shw unet", ["no verb 'shw'", "Did you mean 'show'", "`vesalius models --help`"]),
    "unknown option": ("segment x -o y --ouut z", ["no option '--ouut'", "Did you mean '--out'", "`vesalius segment --help`"]),
    "unknown long option": ("train x -o y --epoch 3", ["no option '--epoch'", "Did you mean '--epochs'"]),
    "an option nobody could mean": ("segment x -o y --bogus", ["no option '--bogus'. `vesalius segment --help`"]),
    "an option before its verb": ("--quiet segment x", ["no option '--quiet'", "Write it behind the verb"]),
    "no value": ("segment x -o", ["'-o' requires an argument", "`vesalius segment --help`"]),
    "a choice there is not": ("segment x -o y --format pgn", ["--format: ", "'pgn' is not one of 'png', 'tiff',"]),
    "a value beyond the range": ("segment x -o y --overlap=3", ["'3' does not suit --overlap", "0.9"]),
    "no number": ("train x -o y --folds one", ["'one' does not suit --folds", "integer"]),
    "missing argument": ("segment -o y", ["INPUT is missing", "DICOM folder", "`vesalius segment --help`"]),
    "missing option": ("segment x", ["--out (-o) is missing", "A folder"]),
    "an argument too many": ("segment a b -o c", ["(b)", "spaces in quotes", "`vesalius segment --help`"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_command_line_is_one_line_that_names_the_fix(kind, run):
    words, said = WRONG[kind]
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "") and result.stderr.count("\n") == 1, result.output
    assert result.stderr.startswith("error: ") and "╭" not in result.stderr and "--help` shows all.\n" in result.stderr
    for each in said:
        assert each in result.stderr, result.stderr


def test_with_json_a_program_is_told_too(run):
    result = run("segment", "x", "--ouut", "y", "--json")
    told = json.loads(result.stdout)
    assert told["exit_code"] == result.exit_code == 2 and "--ouut" in told["error"] and result.stderr.count("\n") == 1


@pytest.mark.parametrize("words, code", [(["--help"], 0), (["segment", "-h"], 0), (["models", "--help"], 0), ([], 2)])
def test_help_stays_help(words, code, run):
    result = run(*words)
    assert result.exit_code == code and "Usage: vesalius" in result.output and "error:" not in result.output


def test_verbs_that_go_well_still_end_with_0_and_those_that_fail_as_before(run, tmp_path):
    assert run("models", "show", "unet").exit_code == 0 and run("--version").exit_code == 0
    assert run("models", "show", "unett").exit_code == 2
    assert run("evaluate", tmp_path / "nowhere", tmp_path / "nowhere").exit_code == 2


def test_a_wrong_command_line_loads_no_heavy_library():
    script = (
        "import sys\n"
        "sys.argv = ['vesalius', 'segment', 'x', '--ouut', 'y']\n"
        "from vesalius.apps.cli import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    print('CODE', done.code)\n"
        "print('LOADED', sorted({'torch', 'scipy', 'skimage', 'nibabel', 'pydicom', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["CODE 2", "LOADED []"] and done.stderr.count("\n") == 1, (done.stdout, done.stderr)
