"""`--engine openvino`: the same masks as PyTorch's, and clear words where it cannot be. Run by test_engine.py, apart."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from specimens import picture, volume

from vesalius.core.errors import InputError, ShapeError, UnknownName
from vesalius.io.files import read, read_mask
from vesalius.models.catalog import CATALOG
from vesalius.models.compiled import SIZES, Compiled, require_openvino
from vesalius.pipeline.predictor import load
from vesalius.pipeline.segment import SegmentOptions, segment_image
from vesalius.pipeline.tiled import plan_tiles, use_bf16
from vesalius.training.loop import train

SEGMENTERS = [
    pytest.param(entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    if entry.kind == "segmenter"
    for i, config in enumerate(entry.tiny)
]


@pytest.mark.parametrize("entry, config", SEGMENTERS)
def test_every_network_gives_its_scores(entry, config):
    torch.manual_seed(0)
    model = entry.builder(config).eval().requires_grad_(False)
    size = model.nearest_size(tuple(max(2 * step, least) for step, least in zip(model.divisor, model.smallest, strict=True)))
    image, fast = torch.randn(2, model.in_channels, *size), Compiled(model)
    with torch.inference_mode():
        want, found = model(image).main, fast(image).main
    assert found.shape == want.shape
    assert (found - want).abs().max() <= 1e-4 * want.abs().max()


def tiny_unet():
    entry = CATALOG["unet"]
    return entry.builder(entry.tiny[0]).eval().requires_grad_(False)


def test_it_computes_in_bf16_where_torch_would():
    model, image = tiny_unet(), torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        want, fast = model(image).main, Compiled(model)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = fast(image).main
        exact = fast(image).main
    assert rounded.dtype == torch.float32
    assert 1e-4 * want.norm() < (rounded - want).norm() < 0.1 * want.norm() or not use_bf16("auto", torch.device("cpu"))
    assert (exact - want).norm() < 1e-4 * want.norm()


def test_compiled_networks_are_kept_for_some_sizes_alone():
    model, sizes = Compiled(tiny_unet()), [8, 16, 24, 32, 40]
    with torch.inference_mode():
        for size in (*sizes, 40):
            model(torch.zeros(1, 1, size, size))
    assert [key[0] for key in model.compiled] == [(1, size, size) for size in sizes[-SIZES:]]


def test_a_size_that_the_network_does_not_take_is_told_before_compiling():
    with pytest.raises(ShapeError), torch.inference_mode():
        Compiled(tiny_unet())(torch.zeros(1, 1, 9, 9))


@pytest.mark.parametrize("dims", [2, 3])
def test_masks_are_those_of_torch(dims, picture_weights, volume_weights, tmp_path):
    image = read(volume(tmp_path / "case.nii.gz", size=(40, 36, 50)) if dims == 3 else picture(tmp_path / "case.png"))
    weights = volume_weights if dims == 3 else picture_weights
    masks = [
        segment_image(image, load("unet", weights=weights, precision="fp32", engine=engine), SegmentOptions(flips=True)).mask
        for engine in ("torch", "openvino")
    ]
    assert masks[0].grid.same_as(masks[1].grid) and len(np.unique(masks[0].array)) > 1
    assert (masks[0].array == masks[1].array).mean() > 0.999


def test_memory_is_planned_as_for_torch(volume_weights):
    plans = []
    for engine in ("torch", "openvino"):
        predictor = load("unet", weights=volume_weights, engine=engine)
        plans.append(plan_tiles(predictor.models, (1, 40, 40, 40), patch=predictor.task.inference.patch))
    assert plans[0] == plans[1]


def test_the_command_line_says_what_computed(run, tmp_path, picture_weights):
    image = picture(tmp_path / "case.png")
    words = ["segment", image, "--model", "unet", "--weights", picture_weights, "--engine", "openvino", "--precision", "fp32"]
    assert "by OpenVINO" in run(*words, "-o", tmp_path / "no", "--explain").stdout
    result = run(*words, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["cases"][0]["state"] == "done"
    assert read_mask(tmp_path / "out" / "case.png").array.shape == read(image).array.shape[1:]
    assert "by OpenVINO" in (tmp_path / "out" / "report.html").read_text()


def test_compiling_is_not_counted_as_speed(picture_weights, tmp_path):
    image = read(picture(tmp_path / "case.png"))
    predictor = load("unet", weights=picture_weights, precision="bf16", engine="openvino")
    agreement = segment_image(image, predictor, compare=True).agreement
    assert agreement.share > 0.9 and agreement.speedup < 10


def test_other_devices_prompts_and_engines_are_refused(run, tmp_path, picture_weights, monkeypatch):
    with pytest.raises(InputError, match="not on cuda"):
        load("unet", weights=picture_weights, engine="openvino", device="cuda")
    with pytest.raises(UnknownName, match="openvino"):
        load("unet", weights=picture_weights, engine="openvin")
    image = picture(tmp_path / "case.png")
    prompted = run("segment", image, "-o", tmp_path / "out", "--box", "1,1,9,9", "--engine", "openvino")
    assert prompted.exit_code == 2 and "--engine" in prompted.stderr and not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = ["--model", "unet", "--weights", picture_weights, "--engine", "openvino"]
    absent = run("segment", image, "-o", tmp_path / "out", *words)
    assert absent.exit_code == 2 and "ip install 'vesalius[openvino]'" in absent.stderr and not (tmp_path / "out").exists()


def test_training_in_the_same_process_is_refused(tmp_path):
    require_openvino()
    with pytest.raises(InputError, match="process of its own"):
        train(tmp_path, tmp_path / "run")


def test_nothing_is_reported_to_the_makers():
    begun = "import sys; from vesalius.models.compiled import require_openvino; require_openvino()"
    words = [sys.executable, "-c", f"{begun}; print('openvino_telemetry' in sys.modules)"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
