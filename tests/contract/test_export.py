"""Every network of the catalog leaves PyTorch: as a torch.export graph and as ONNX, with the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vesalius.models.catalog import CATALOG, Entry
from vesalius.models.contract import Prompts
from vesalius.models.export import Scores, capture, difference, export_onnx
from vesalius.models.solid import Hints

onnxruntime = pytest.importorskip("onnxruntime")
CASES = [
    pytest.param(entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    for i, config in enumerate(entry.tiny)
    if entry.kind == "segmenter"
]
OTHERS = [
    pytest.param(entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    for i, config in enumerate(entry.tiny)
    if entry.kind in ("prompts", "encoder")
]
SOLIDS = [
    pytest.param(entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    for i, config in enumerate(entry.tiny)
    if entry.kind == "solid"
]


class Encoder(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embed(image) if hasattr(self.model, "embed") else self.model(image)


class Decoder(nn.Module):
    """The answer to points and boxes: masks (P, M, h, w) and their quality (P, M)."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, points: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.model.decode(features, Prompts(points, labels, boxes), True))


class Whole(nn.Module):
    """A view of a volume and the hints about it: logits and quality."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, view: Tensor, *hints: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self.model(view, Hints(*hints)))


def fresh(entry: Entry, config: Any) -> Any:
    torch.manual_seed(0)
    model = entry.builder(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # zeros at the start would hide a path that is not connected
        nn.init.normal_(parameter, std=0.2)
    return model


def agree(network: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], file: Path) -> None:
    """Both ways out give what the network gives, on other numbers than it was captured with."""
    program = capture(network, tuple(inputs.values()))
    others = {name: tensor.flip(-1) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    with torch.no_grad():
        found, wanted = program.module()(*others.values()), network(*others.values())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    export_onnx(program, file, inputs=tuple(inputs), outputs=outputs, metadata={"vesalius": "told"})
    off = difference(file, network, others)
    assert off is not None and off < 1e-4
    assert onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map["vesalius"] == "told"


@pytest.mark.parametrize(("entry", "config"), CASES)
def test_a_segmenter_gives_the_same_numbers_outside_of_pytorch(entry: Entry, config: Any, tmp_path: Path) -> None:
    model = fresh(entry, config)
    image = torch.randn(2, model.in_channels, *model.nearest_size(tuple(2 * n for n in model.smallest)))
    agree(Scores(model), {"image": image}, ("logits",), tmp_path / "model.onnx")


@pytest.mark.parametrize(("entry", "config"), OTHERS)
def test_a_promptable_models_parts_give_the_same_numbers_outside_of_pytorch(entry: Entry, config: Any, tmp_path: Path) -> None:
    model = fresh(entry, config)
    image = torch.randn(1, 3, 64, 64)
    agree(Encoder(model), {"image": image}, ("features",), tmp_path / "encoder.onnx")
    if entry.kind == "prompts":
        prompts = {
            "points": torch.tensor([[[20.0, 30.5]], [[50.0, 9.0]]]),
            "labels": torch.tensor([[1], [0]]),
            "boxes": torch.tensor([[4.0, 6.0, 40.0, 60.0], [0.0, 0.0, 64.0, 20.0]]),
        }
        agree(Decoder(model), {"features": model.embed(image), **prompts}, ("masks", "iou"), tmp_path / "decoder.onnx")


@pytest.mark.parametrize(("entry", "config"), SOLIDS)
def test_a_model_of_volumes_gives_the_same_numbers_outside_of_pytorch(entry: Entry, config: Any, tmp_path: Path) -> None:
    model, size = fresh(entry, config), config.size
    known = torch.zeros(2, 1, size, size, size)
    known[0, 0, size // 2], known[0, 0, size // 2, 4:9, 3:8] = -1, 1
    given = {
        "view": torch.randn(2, 1, size, size, size),
        "boxes": torch.tensor([[0.0] * 6, [2, 3, 4, 12, 11, 13]]),
        "points": torch.tensor([[[4.0, 5, 6]], [[7, 7, 7]]]),
        "labels": torch.tensor([[1], [0]]),
        "known": known,
        "earlier": 3 * known.roll(1, 2),
    }
    agree(Whole(model), given, ("logits", "iou"), tmp_path / "model.onnx")
