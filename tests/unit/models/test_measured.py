"""The sizes of official checkpoints, read off their tensors: the same network as their own configuration describes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vesalius.core.errors import InputError, WeightsError
from vesalius.models.catalog import CATALOG, entry
from vesalius.models.checkpoints import import_file
from vesalius.models.weights import load_state

UNTOLD = {  # what no tensor of these small files tells; of a full-size file everything is known
    "transunet": {"heads": 4},
    "segvit": {"backbone": {"heads": 4, "out_layers": [1, 3, 5]}, "head": {"heads": 4}},
    "segvit_shrunk": {"backbone": {"heads": 4, "out_layers": [1, 5], "shrink_at": 2}, "head": {"heads": 4}},
}
FOLDERS = ("unet_2d", "unet_3d", "unetpp_2d", "unetpp_nested", "attention_unet", "transunet", "swin_unet", *tuple(UNTOLD)[1:])


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_official_segmenter_is_built_from_its_tensors_alone(folder: str, shared_parity: Path) -> None:
    record = json.loads((shared_parity / folder / "config.json").read_text())
    file = shared_parity / folder / "state.safetensors"
    imported = import_file(file, record["model"], UNTOLD.get(folder))
    assert imported.module.config == entry(record["model"]).official(record["config"])[0]
    assert imported.used + len(imported.ignored) == len(load_state(file)[0])
    if folder in UNTOLD:
        with pytest.raises(WeightsError, match=r"no tensor tells 'heads' .* --config"):
            import_file(file, record["model"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_half_of_an_official_file_is_refused_by_its_name(folder: str, shared_parity: Path, tmp_path: Path) -> None:
    model = json.loads((shared_parity / folder / "config.json").read_text())["model"]
    state = load_state(shared_parity / folder / "state.safetensors")[0]
    names = list(state)
    for i, part in enumerate((names[: len(names) // 2], names[1:], [n for n in names if not n.startswith("final")][:-2])):
        file = tmp_path / f"half_{i}.safetensors"
        save_file({name: state[name] for name in part}, file)
        with pytest.raises(WeightsError, match=file.name):
            import_file(file, model, UNTOLD.get(folder))


@pytest.mark.parametrize("before", ["module.", "model.", "net._orig_mod."])
@pytest.mark.parametrize("folder", FOLDERS)
def test_files_in_which_the_network_is_a_part_are_the_same_files(
    folder: str, before: str, shared_parity: Path, tmp_path: Path
) -> None:
    file = shared_parity / folder / "state.safetensors"
    model = json.loads((shared_parity / folder / "config.json").read_text())["model"]
    save_file({f"{before}{name}": tensor for name, tensor in load_state(file)[0].items()}, tmp_path / "part.safetensors")
    plain, wrapped = (import_file(f, model, UNTOLD.get(folder)) for f in (file, tmp_path / "part.safetensors"))
    ours = plain.module.state_dict()
    assert wrapped.used == plain.used and wrapped.module.config == plain.module.config
    assert all(torch.equal(tensor, ours[name]) for name, tensor in wrapped.module.state_dict().items())


def test_a_shrunk_segvit_is_never_built_unshrunk(shared_parity: Path) -> None:
    sizes = {"backbone": {"heads": 4, "out_layers": [1, 5]}, "head": {"heads": 4}}
    with pytest.raises(WeightsError, match=r"no tensor tells 'shrink_at' .* --config"):
        import_file(shared_parity / "segvit_shrunk" / "state.safetensors", "segvit", sizes)


@pytest.mark.parametrize(
    ("folder", "sizes", "said"),
    [
        ("segvit_shrunk", {"backbone": {"shrinkat": 2}}, r"no size of 'segvit' 'backbone.shrinkat'.*'backbone.shrink_at'"),
        ("segvit", {"backbone": 3}, r"backbone = 3 is no table"),
        ("segvit", {"backbone": {"out_layers": 3}}, r"backbone.out_layers = 3 does not fit"),
        ("unetpp_2d", {"heads": 4}, r"no size of 'unetpp' 'heads'"),
        ("unetpp_nested", {"widths": "abc"}, r"widths = 'abc' does not fit"),
        ("unetpp_nested", {"classes": "two"}, r"classes = 'two' does not fit"),
        ("unetpp_nested", {"base": 8}, r"no 'unetpp' has these sizes: .*'base'"),
        ("transunet", {"heads": "four"}, r"heads = 'four' does not fit"),
        ("transunet", {"heads": 0}, r"heads = 0 does not fit"),
        ("transunet", {"heads": 5}, r"48 channels cannot be shared by 5 heads"),
        ("transunet", {"decoder_channels": 3}, r"decoder_channels = 3 does not fit"),
        ("swin_unet", {"image_size": "a"}, r"image_size = 'a' does not fit"),
        ("swin_unet", {"depths": 2}, r"depths = 2 does not fit"),
    ],
)
def test_a_stated_size_that_cannot_be_is_named_with_its_file(folder: str, sizes: dict, said: str, shared_parity: Path) -> None:
    model = json.loads((shared_parity / folder / "config.json").read_text())["model"]
    with pytest.raises(InputError, match=rf"sizes\.toml: .*{said}"):
        import_file(shared_parity / folder / "state.safetensors", model, sizes, stated_in="sizes.toml")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_reference_files_whole_config_may_be_stated(folder: str, shared_parity: Path) -> None:
    record = json.loads((shared_parity / folder / "config.json").read_text())
    imported = import_file(shared_parity / folder / "state.safetensors", record["model"], record["config"])
    assert imported.module.config == entry(record["model"]).official(record["config"])[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_whose_tensors_are_single_numbers_is_refused_by_its_name(folder: str, shared_parity: Path, tmp_path: Path) -> None:
    model = json.loads((shared_parity / folder / "config.json").read_text())["model"]
    state, file = load_state(shared_parity / folder / "state.safetensors")[0], tmp_path / "flat.safetensors"
    save_file({name: torch.zeros(()) for name in state}, file)
    with pytest.raises(WeightsError, match=r"flat.safetensors: this is no whole"):
        import_file(file, model, UNTOLD.get(folder))


def test_every_segmenter_with_an_official_layout_can_be_imported() -> None:
    assert {n for n, e in CATALOG.items() if e.official and e.kind == "segmenter"} == {
        n for n, e in CATALOG.items() if e.infer and e.kind == "segmenter"
    }


@pytest.mark.parametrize("name", [n for n, e in CATALOG.items() if e.infer])
def test_the_tensors_of_something_else_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=r"tensor names of no .* Known layouts"):
        entry(name).infer({"something.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize("width, depth, heads, looked", [(768, 12, 12, (5, 7, 11)), (1024, 24, 16, (7, 15, 23))])
def test_the_released_segvits_tell_all(width: int, depth: int, heads: int, looked: tuple[int, ...]) -> None:
    meta = lambda *shape: torch.empty(shape, device="meta")  # noqa: E731
    state = {"backbone.patch_embed.projection.weight": meta(width, 3, 16, 16), "backbone.pos_embed": meta(1, 1025, width)}
    state |= {f"backbone.layers.{i}.ln1.weight": meta(width) for i in range(depth)}
    state |= {"decode_head.q.weight": meta(150, width // 2), "decode_head.input_proj_1.weight": meta(width // 2, width)}
    state |= {f"decode_head.decoder_{s}.layers.{i}.norm1.weight": meta(1) for s in (1, 2, 3) for i in range(3)}
    found = entry("segvit").official(entry("segvit").infer(state))[0]
    assert found.backbone.heads == found.head.heads == heads and found.backbone.out_layers == looked
    assert found.backbone.image_size == (512, 512) and found.classes == 150 and found.head.layers == 3


def test_a_plain_vit_under_transunet_is_measured_too() -> None:
    """The opposite way: our own network's sizes, written under the names of the original."""
    meta = lambda *shape: torch.empty(shape, device="meta")  # noqa: E731
    state = {
        "transformer.embeddings.patch_embeddings.weight": meta(768, 3, 16, 16),
        "transformer.embeddings.position_embeddings": meta(1, 196, 768),
        "decoder.conv_more.0.weight": meta(512, 768, 3, 3),
        "segmentation_head.0.weight": meta(9, 16, 3, 3),
        **{f"transformer.encoder.layer.{i}.ffn.fc1.weight": meta(3072, 768) for i in range(12)},
    }
    widths = (512, 256, 128, 64, 16)
    for i in range(4):
        state[f"decoder.blocks.{i}.conv1.0.weight"] = meta(widths[i + 1], widths[i], 3, 3)
    found = entry("transunet").official(entry("transunet").infer(state))[0]
    assert found.resnet_units == () and found.patch_size == 16 and found.image_size == (224, 224)
    assert found.heads == 12 and found.layers == 12 and found.skips == 0 and found.classes == 9
