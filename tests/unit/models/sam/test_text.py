"""Words become embeddings by a CLIP text encoder in a folder, here a tiny one with random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from specimens import tiny_clip

from vesalius.core.errors import InputError, WeightsError
from vesalius.models.sam.text import embed_text

pytest.importorskip("transformers", reason="transformers, of the extra `text`, is not installed")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def test_each_text_has_its_embedding_whatever_stands_beside_it(clip: Path) -> None:
    both, alone = embed_text(["polyp", "nucleus nucleus polyp"], clip), embed_text(["polyp"], clip)
    assert both.shape == (2, 10) and both.dtype == torch.float32
    torch.testing.assert_close(both[:1], alone)
    assert not torch.allclose(both[0], both[1])


def test_no_words_and_no_encoder_are_refused(clip: Path, tmp_path: Path) -> None:
    for words in ([], ["  "]):
        with pytest.raises(InputError, match="empty"):
            embed_text(words, clip)
    with pytest.raises(WeightsError, match="no CLIP text encoder"):
        embed_text(["polyp"], tmp_path)


def test_another_kind_of_model_or_a_part_of_one_is_not_filled_up_with_random_numbers(clip: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(clip, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(WeightsError, match="speaks of bert"):
        embed_text(["polyp"], other)
    part = Path(shutil.copytree(clip, tmp_path / "part"))
    tensors = load_file(part / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if name != "text_projection.weight"}, part / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors, such as text_projection\.weight"):
        embed_text(["polyp"], part)
