"""A promptable network as the pipeline knows it: in the picture's pixels, looked at once, remembered on disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vesalius.core.errors import InputError, WeightsError
from vesalius.core.greys import GreyRule
from vesalius.core.image import Grid, Image
from vesalius.models.checkpoints import CHECKPOINTS, Imported
from vesalius.models.contract import Prompts
from vesalius.models.sam.frame import Frame
from vesalius.models.sam.image_encoder import ViTConfig
from vesalius.models.sam.sam import SAM, SAMConfig
from vesalius.pipeline.embeddings import EmbeddingCache
from vesalius.pipeline.looks import Asked
from vesalius.pipeline.prompter import FramePrompter, load_prompter
from vesalius.pipeline.session import Session

FRAME = Frame(64)
PICTURE = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)


def network():
    torch.manual_seed(0)
    encoder = ViTConfig(image_size=64, width=24, depth=2, heads=2, global_blocks=(1,), window=3, channels=16)
    return SAM(SAMConfig(encoder, mask_channels=8, decoder_heads=2, decoder_mlp=24, iou_width=12, text=10)).eval()


@pytest.fixture(scope="module")
def prompter():
    return FramePrompter("tiny", network(), FRAME, "tiny-0")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return Imported("sam", network(), FRAME, None, 0, ()).write(path, "tiny.pth")


def test_a_session_answers_as_the_network_itself_does(prompter):
    model = prompter.model
    image = Image(PICTURE.transpose(2, 0, 1)[:, None], Grid((1, 30, 50), dims=2))
    found = Session(image, prompter, cache=False).predict(
        points=[(40, 5), (3, 20)], labels=[1, 0], box=(2, 1, 48, 29), details=True
    )
    with torch.inference_mode():
        points = torch.tensor([[[40, 5], [3, 20]]]) * torch.tensor([64 / 50, 38 / 30])
        boxes = torch.tensor([[2, 1, 48, 29]]) * torch.tensor([64 / 50, 38 / 30] * 2)
        prompts = Prompts(points, torch.tensor([[1, 0]]), boxes)
        logits, iou = model.decode(model.embed(FRAME.prepare(PICTURE)), prompts)
    assert np.allclose(found.logits, FRAME.restore(logits, (30, 50))[0].numpy(), atol=1e-5)
    assert np.allclose(found.scores, iou[0].numpy(), atol=1e-6)


def test_a_mask_prompt_lies_where_the_picture_has_it(prompter):
    look = prompter.look(PICTURE)
    mask = np.zeros((30, 50), bool)
    mask[3:12, 30:45] = True
    state = look.believed(mask)
    assert state.shape == (1, look.cells, look.cells)
    back = look.full(state)[0].numpy() > 0
    assert (back ^ mask).sum() < 0.35 * mask.sum()  # cells of 3 pixels
    y, x = np.nonzero(back)
    assert abs(y.mean() - 7) < 0.5 and abs(x.mean() - 37) < 0.5
    look.ask(Asked(states=state), multimask=False)


def test_the_picture_is_embedded_once_and_remembered_by_its_content(tmp_path, monkeypatch):
    one, cache = FramePrompter("tiny", network(), FRAME, "tiny-0"), EmbeddingCache(tmp_path)
    embedded = []
    embed = one.model.embed
    monkeypatch.setattr(one.model, "embed", lambda image: (embedded.append(1), embed(image))[1])
    first = one.look(PICTURE, cache)
    again = one.look(PICTURE.copy(), cache)
    assert len(embedded) == 1 and torch.equal(first.features, again.features)
    one.look(PICTURE[:, ::-1].copy(), cache)
    assert len(embedded) == 2
    FramePrompter("tiny", one.model, FRAME, "others").look(PICTURE, cache)
    FramePrompter("tiny", one.model, Frame(64, aspect="stretch"), "tiny-0").look(PICTURE, cache)
    assert len(embedded) == 4  # other weights, or another preparation, are other embeddings


def test_words_are_refused_by_weights_that_know_none():
    with pytest.raises(InputError, match="no words"):
        FramePrompter("sam_vit_b", object(), FRAME, "x").words("the liver")


def test_words_become_a_token_of_weights_that_know_them():
    words = {"liver": torch.eye(10)[0], "a spleen": torch.eye(10)[1]}
    one = FramePrompter("tiny", network(), FRAME, "x", embed_text=words.__getitem__)
    image = Image(PICTURE.transpose(2, 0, 1)[:, None], Grid((1, 30, 50), dims=2))
    session = Session(image, one, cache=False)
    found = [session.predict(text=text, details=True).logits for text in ("liver", "a spleen")]
    assert found[0].shape == (1, 30, 50) and not np.allclose(*found, atol=1e-6)
    with pytest.raises(InputError, match="CLIP"):
        FramePrompter("tiny", one.model, FRAME, "x").words("liver")


def test_an_imported_file_is_loaded_with_the_frame_it_states(file):
    loaded = load_prompter(file, device="cpu", precision="fp32")
    assert loaded.frame == FRAME and loaded.name == "tiny"
    again = loaded.look(PICTURE).features
    assert torch.allclose(again, FramePrompter("t", network(), FRAME, "t").look(PICTURE).features, atol=1e-5)


def test_a_file_that_says_what_it_is_may_be_named_too_but_not_as_something_else(tmp_path):
    path = Imported("sam", network(), FRAME, "medsam", 0, ()).write(tmp_path / "mine.safetensors", "tiny.pth")
    loaded = load_prompter("medsam", weights=path, device="cpu", precision="fp32")
    assert (loaded.name, loaded.frame, loaded.learned) == ("medsam", FRAME, ("boxes",))
    assert not loaded.refines and not loaded.rates
    with pytest.raises(WeightsError, match="holds 'medsam', not 'sam_vit_b'"):
        load_prompter("sam_vit_b", weights=path, device="cpu")


def test_the_grey_rule_is_that_of_the_weights_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKPOINTS, "medsam", replace(CHECKPOINTS["medsam"], greys=GreyRule(1.0, 99.0)))
    path = Imported("sam", network(), FRAME, "medsam", 0, ()).write(tmp_path / "mine.safetensors", "tiny.pth")
    assert load_prompter(path, device="cpu", precision="fp32").greys == GreyRule(1.0, 99.0)


@pytest.mark.parametrize(
    "what, words",
    [("sam_vit_bb", "sam_vit_b"), ("unet", "sam_vit_b"), ("sam_vit_b", "models download sam_vit_b")],
)
def test_without_weights_it_is_said_which_there_are_and_how_to_get_them(what, words, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError) as refusal:
        load_prompter(what, device="cpu")
    assert words in str(refusal.value) and "download" in str(refusal.value) and "\n" not in str(refusal.value)
