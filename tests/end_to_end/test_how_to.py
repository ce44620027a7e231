"""The how-tos say what works: each of their commands is run, in order, on tiny data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from specimens import dicom_series, mask_volume, moving_block, picture, save_tiny, save_tiny_sam, video, volume

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def labels(path: Path, size=(40, 36)) -> None:
    """A label map with the disk that `picture` draws."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.ogrid[: size[0], : size[1]]
    Image.fromarray(((y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (min(size) / 4) ** 2).astype(np.uint8)).save(path)


def study_and_run(folder: Path) -> None:
    from vesalius.transforms.intensity import ZScore
    from vesalius.transforms.spatial import Orient

    dicom_series(folder / "study")
    (folder / "runs/mine").mkdir(parents=True)
    save_tiny(folder / "runs/mine/weights.safetensors", dims=3, channels=("CT",), steps=(Orient(), ZScore()))


def own_data(folder: Path) -> None:
    for i in range(8):
        picture(folder / f"mydata/images/case_{i:02d}.png", seed=i)
        labels(folder / f"mydata/labels/case_{i:02d}.png")


def masks_and_references(folder: Path) -> None:
    for i in range(3):
        mask_volume(folder / f"masks/case_{i}.nii.gz")
        mask_volume(folder / f"references/case_{i}.nii.gz", values=(1, 2))


def picture_scan_and_network(folder: Path) -> None:
    picture(folder / "polyp.png")
    volume(folder / "scan.nii.gz")
    save_tiny_sam(folder / "weights.safetensors")


def clip_and_network(folder: Path) -> None:
    video(folder / "clip.mp4", moving_block(8), codec="libx264")
    save_tiny_sam(folder / "weights.safetensors")


def volumes_and_recipe(folder: Path) -> None:
    from trainable import volumes

    volumes(folder / "myvolumes", 5)
    page = (PAGES / "train-a-2d-model-on-volumes.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n# slices.toml\n(.*?)```", page, re.DOTALL)
    (folder / "slices.toml").write_text("workers = 0\nbatch = 2\nmodel = { widths = [4, 8] }\n" + recipe, encoding="utf-8")


IN_ONE_PROCESS = {  # many commands, each of which would load torch anew
    "segment-what-you-point-at": picture_scan_and_network,
    "segment-a-video": clip_and_network,
}
PREPARE = {
    "segment-a-dicom-study": study_and_run,
    "train-on-your-own-folder": own_data,
    "train-a-2d-model-on-volumes": volumes_and_recipe,
    "read-the-report": masks_and_references,
}


def test_every_how_to_is_tried():
    assert {page.stem for page in PAGES.glob("*.md")} == set(PREPARE) | set(IN_ONE_PROCESS)


@pytest.mark.parametrize("name", PREPARE)
def test_the_commands_of_a_how_to_work_as_written(name, tmp_path):
    PREPARE[name](tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", (PAGES / f"{name}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    script = "set -e\n" + "".join(blocks)
    if name == "train-on-your-own-folder":  # the same commands, on a shorter plan than anybody would use
        script = script.replace("vesalius train mydata -o runs/mine", f"{shorten()}\nvesalius train mydata -o runs/mine")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", IN_ONE_PROCESS)
def test_the_commands_and_the_python_of_a_how_to_work_as_written(name, tmp_path, monkeypatch, run):
    IN_ONE_PROCESS[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    commands, snippets = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("bash", "python"))
    noted = "vesalius() { (IFS=$'\\x1f'; echo \"$*\" >> commands); }\n"  # bash reads the lines, this process runs them
    subprocess.run(["bash", "-ec", noted + "".join(commands)], check=True)
    for line in Path("commands").read_text(encoding="utf-8").splitlines():
        result = run(*line.split("\x1f"))
        assert result.exit_code == 0, (line, result.stderr)
    assert commands and snippets
    for snippet in snippets:
        exec(snippet, {})


def shorten() -> str:
    """The reader edits the plan: here, three steps an epoch."""
    return "sed -i.bak 's/^steps_per_epoch = .*/steps_per_epoch = 3/; s/^batch = .*/batch = 2/' runs/look/plan.toml"
