"""Every model that `train` can teach: trained on tiny data from the command line, then used from the file it wrote."""

import json
from pathlib import Path

import pytest
import tomlkit
from trainable import pictures, recipe, volumes

from vesalius.models.catalog import CATALOG, plain

NAMES = ("unetpp", "attention_unet", "segvit", "segvit_v2")
ONE_A_DIMENSION = {(name, config.dims): config for name in NAMES for config in reversed(CATALOG[name].tiny)}
TAUGHT = [pytest.param(name, config, id=f"{name}-{dims}d") for (name, dims), config in ONE_A_DIMENSION.items()]


def tiny_recipe(path: Path, config, patch: list[int]) -> Path:
    """The test recipe, with the network of a tiny configuration; sizes follow from the data."""
    recipe(path, patch, steps_per_epoch="2", epochs="1", validate_every="1")
    values = tomlkit.parse(path.read_text())
    values["model"] = {k: v for k, v in plain(config).items() if k not in ("in_channels", "classes", "dims")}
    path.write_text(tomlkit.dumps(values))
    return path


@pytest.mark.parametrize(("name", "config"), TAUGHT)
def test_a_model_is_trained_and_used_from_the_command_line(run, tmp_path, name, config):
    flat = config.dims == 2
    data = pictures(tmp_path / "data", 6) if flat else volumes(tmp_path / "data", 5)
    file = tiny_recipe(tmp_path / "tiny.toml", config, [1, 32, 32] if flat else [8, 16, 16])
    trained = run("train", data, "-o", tmp_path / "run", "--model", name, "--recipe", file, "--workers", 0, "--json")
    assert trained.exit_code == 0, trained.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2
    used = run("segment", data / "images", "-o", tmp_path / "masks", "--weights", tmp_path / "run" / "weights.safetensors")
    assert used.exit_code == 0, used.output
    assert len(list((tmp_path / "masks").glob("case_*"))) == (6 if flat else 5)
