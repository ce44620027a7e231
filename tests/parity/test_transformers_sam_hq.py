"""SAM-HQ against transformers' SamHQModel with the same random weights, in float64, and in the layout of the released files.

transformers (5.24) draws SAM-HQ's masks from the image as it was before the decoder's transformer, whose image it drops under
another name; the original draws from what comes out, as SAM does and as the released weights were trained. So that one tensor
is put back in theirs before the two are compared.
"""

from typing import Any

import pytest
import torch

from vesalius.core.errors import InputError
from vesalius.models.checkpoints import CHECKPOINTS
from vesalius.models.contract import Prompts
from vesalius.models.sam.official import config_of, to_original, to_ours
from vesalius.models.sam.sam import SAM, SAMConfig
from vesalius.models.sam.tiny_encoder import TinyViTConfig

pytest.importorskip("transformers.models.sam_hq", reason="transformers, of the extra `test`, is not installed")

SIZE = 112
PROMPTS: dict[str, dict[str, Any]] = {
    "points": {"points": [[[30.0, 41.5]], [[90.0, 7.0]]], "labels": [[1], [0]]},
    "boxes": {"boxes": [[10.0, 20.0, 70.0, 99.0], [0.0, 0.0, 40.0, 30.5]]},
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import SamHQConfig, SamHQMaskDecoderConfig, SamHQModel, SamHQPromptEncoderConfig, SamHQVisionConfig

    vision = SamHQVisionConfig(
        hidden_size=48,
        output_channels=32,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=SIZE,
        window_size=3,
        global_attn_indexes=[1, 3],  # the first is meant: early features
        mlp_dim=96,
        num_pos_feats=16,
    )
    prompts = SamHQPromptEncoderConfig(hidden_size=32, image_size=SIZE, mask_input_channels=8)
    decoder = SamHQMaskDecoderConfig(hidden_size=32, mlp_dim=40, iou_head_hidden_dim=24, layer_norm_eps=1e-5, vit_dim=48)
    torch.manual_seed(0)
    model = SamHQModel(SamHQConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    state = {name: torch.randn_like(value) * 0.3 for name, value in model.state_dict().items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    model.load_state_dict(state)
    return as_the_original(model).eval().double()


def as_the_original(model: Any) -> Any:
    """The masks are drawn from the image that the decoder's transformer returns."""
    decoder, seen = model.mask_decoder, []
    decoder.transformer.register_forward_hook(lambda module, given, found: seen.append(found[1]))

    def swapped(module: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (seen.pop().transpose(2, 3).reshape(given[0].shape),)

    decoder.upscale_conv1.register_forward_pre_hook(swapped)
    return model


@pytest.fixture(scope="module")
def ours(theirs: Any) -> SAM:
    state = theirs.state_dict()
    model = SAM(config_of(state))
    model.load_state_dict(to_ours(state))
    return model.eval().double()


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize("case", PROMPTS)
def test_corrected_masks_and_their_quality_are_equal(theirs: Any, ours: SAM, case: str, multimask: bool) -> None:
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = {k: torch.tensor(v, dtype=torch.int64 if k == "labels" else torch.float64) for k, v in PROMPTS[case].items()}
    names = {"points": "input_points", "labels": "input_labels", "boxes": "input_boxes"}
    with torch.inference_mode():
        official = theirs(pixel_values=image, multimask_output=multimask, **{names[k]: v[None] for k, v in given.items()})
        logits, quality = ours(image, Prompts(**given), multimask)
    order = quality.argsort(1, descending=True)  # theirs come sorted
    logits, quality = (torch.stack([rows[i] for rows, i in zip(found, order, strict=True)]) for found in (logits, quality))
    torch.testing.assert_close(logits, official.pred_masks[0], atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(quality, official.iou_scores[0], atol=1e-7, rtol=1e-7)


def test_the_names_of_the_released_files_are_read(theirs: Any, ours: SAM) -> None:
    released = to_original(theirs.state_dict())
    assert {name.split(".")[1] for name in released if name.startswith("mask_decoder")} == {
        "transformer", "iou_token", "mask_tokens", "output_upscaling", "output_hypernetworks_mlps", "iou_prediction_head",
        "hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature",
    }  # fmt: skip
    assert config_of(released) == ours.config and ours.config.hq
    assert set(to_ours(released)) == set(ours.state_dict())


@pytest.mark.parametrize("name", ["sam_hq_vit_b", "sam_hq_vit_l", "sam_hq_vit_h"])
def test_the_released_sizes_are_those_of_sam_and_what_the_paper_adds(name: str) -> None:
    entry, plain = CHECKPOINTS[name], CHECKPOINTS[name.replace("_hq", "")]
    with torch.device("meta"):
        more, less = (sum(p.numel() for p in SAM(each.config).parameters()) for each in (entry, plain))
    width = entry.config.encoder.width
    early = 4 * 256 * width + 3 * 256 + 4 * 256 * 32 + 32  # two transposed convolutions and a norm between them
    late = 4 * 256 * 64 + 3 * 64 + 4 * 64 * 32 + 32
    refine = 9 * 32 * 64 + 3 * 64 + 9 * 64 * 32 + 32
    hyper = 2 * (256 * 256 + 256) + 256 * 32 + 32
    assert more - less == 256 + early + late + refine + hyper


def test_sam_hq_with_tinyvit_is_refused() -> None:
    with pytest.raises(InputError, match="ViT-B, L and H alone"):
        SAMConfig(TinyViTConfig(), hq=True)
