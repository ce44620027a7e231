"""Every reference folder whose model we have: our arrays equal the official ones, and none is passed over."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import check
import numpy as np
import pytest
import reference as references

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "parity"


def folders() -> list[Path]:
    configs = sorted(SHARED.glob("*/config.json"))
    return [c.parent for c in configs if json.loads(c.read_text(encoding="utf-8")).get("model") in check.COMPARE]


@pytest.mark.skipif(not folders(), reason="the reference tensors do not lie beside the checkout")
@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_our_arrays_equal_the_official_ones(folder: Path, capsys: pytest.CaptureFixture) -> None:
    code = check.main([str(folder)])
    assert code == 0, capsys.readouterr().out


def test_the_script_runs_by_itself_from_anywhere(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, str(Path(check.__file__)), str(tmp_path / "none")]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and str(tmp_path / "none") in done.stdout


def write(folder: Path, reference: references.Folder) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(reference.extra), encoding="utf-8")
    (folder / "state.safetensors").symlink_to((reference.path / "state.safetensors").resolve())
    np.savez(folder / "arrays.npz", **reference.arrays)
    return folder


@pytest.fixture
def reference(shared_parity: Path) -> references.Folder:
    return references.Folder.open(shared_parity / "unet_2d")


def test_a_shifted_value_is_found(reference: references.Folder, tmp_path: Path) -> None:
    wrong = reference.arrays["y"].copy()
    wrong[0, 1, 3, 4] += 2e-4
    folder = write(tmp_path / "wrong", replace(reference, arrays={**reference.arrays, "y": wrong}))
    assert check.main([str(folder)]) == 1


def test_an_array_that_nobody_compares_is_found(reference: references.Folder, tmp_path: Path) -> None:
    folder = write(tmp_path / "more", replace(reference, arrays={**reference.arrays, "surprise": np.zeros(3)}))
    assert check.main([str(folder)]) == 1


def test_a_missing_tensor_is_found(reference: references.Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = references.load_file
    monkeypatch.setattr(references, "load_file", lambda path: {k: v for k, v in load(path).items() if k != "outc.conv.bias"})
    assert check.main([str(reference.path)]) == 1


def test_a_model_that_does_not_exist_yet_is_said(reference: references.Folder, tmp_path: Path) -> None:
    folder = write(tmp_path / "later", replace(reference, extra={**reference.extra, "model": "later"}))
    assert check.main([str(folder)]) == 2


def test_masks_are_compared_by_overlap() -> None:
    mask = np.zeros((20, 50), bool)
    mask[:, :25] = True
    almost = mask.copy()
    almost[0, 0] = False
    assert check.difference(mask, mask)[1] and not check.difference(almost, mask)[1]


def test_where_rounding_is_amplified_the_root_mean_square_still_decides() -> None:
    theirs, ours = np.zeros((100, 100), np.float32), np.zeros((100, 100), np.float32)
    ours[3, 4] = 5e-4
    assert not check.difference(ours, theirs)[1] and check.difference(ours, theirs, "amplified")[1]
    assert not check.difference(ours + 2e-4, theirs, "amplified")[1]  # everywhere a little wrong
    ours[3, 4] = 2e-3
    assert not check.difference(ours, theirs, "amplified")[1]
