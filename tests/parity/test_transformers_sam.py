"""SAM against transformers' SamModel with the same random weights, in float64: nothing is left to rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vesalius.models.contract import Prompts
from vesalius.models.sam.official import config_of, to_ours
from vesalius.models.sam.sam import SAM

pytest.importorskip("transformers", reason="transformers, of the extra `test`, is not installed")

SIZE = 112  # seven patches: windows of three do not divide the grid

PROMPTS: dict[str, Callable[[], dict[str, Any]]] = {
    "a point": lambda: {"points": [[[30.0, 41.5]], [[90.0, 7.0]]], "labels": [[1], [0]]},
    "two points": lambda: {"points": [[[30.0, 41.5], [60.0, 2.0]], [[90.0, 7.0], [11.0, 100.0]]], "labels": [[1, 0], [1, 1]]},
    "a box": lambda: {"boxes": [[10.0, 20.0, 70.0, 99.0], [0.0, 0.0, 40.0, 30.5]]},
    "a box and a point": lambda: {
        "boxes": [[10.0, 20.0, 70.0, 99.0], [0.0, 0.0, 40.0, 30.5]],
        "points": [[[30.0, 41.5]], [[20.0, 7.0]]],
        "labels": [[1], [0]],
    },
    "a mask": lambda: {"masks": torch.randn(1, 1, 28, 28, dtype=torch.float64)},
    "a box and a mask": lambda: {
        "boxes": [[10.0, 20.0, 70.0, 99.0]],
        "masks": torch.randn(1, 1, 28, 28, dtype=torch.float64),
    },
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=48,
        output_channels=32,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=SIZE,
        window_size=3,
        global_attn_indexes=[1],
        mlp_dim=96,
        num_pos_feats=16,
    )
    prompts = SamPromptEncoderConfig(hidden_size=32, image_size=SIZE, mask_input_channels=8)
    # The original's blocks have 1e-5, transformers' by default 1e-6.
    decoder = SamMaskDecoderConfig(hidden_size=32, mlp_dim=40, iou_head_hidden_dim=24, layer_norm_eps=1e-5)
    torch.manual_seed(0)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    state = {name: torch.randn_like(value) * 0.3 for name, value in model.state_dict().items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    model.load_state_dict(state)
    return model.eval().double()


@pytest.fixture(scope="module")
def ours(theirs: Any) -> SAM:
    state = theirs.state_dict()
    model = SAM(config_of(state))
    model.load_state_dict(to_ours(state))
    return model.eval().double()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_features_are_equal(theirs: Any, ours: SAM, image: torch.Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(ours.embed(image), theirs.get_image_embeddings(image), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize("case", PROMPTS)
def test_masks_and_their_quality_are_equal(theirs: Any, ours: SAM, image: torch.Tensor, case: str, multimask: bool) -> None:
    torch.manual_seed(2)
    given = {
        name: torch.as_tensor(value, dtype=torch.int64 if name == "labels" else torch.float64)
        for name, value in PROMPTS[case]().items()
    }
    names = {"points": "input_points", "labels": "input_labels", "boxes": "input_boxes"}
    with torch.inference_mode():
        features = ours.embed(image)
        official = theirs(
            image_embeddings=features,
            input_masks=given.get("masks"),
            multimask_output=multimask,
            **{names[name]: value[None] for name, value in given.items() if name in names},
        )
        logits, quality = ours.decode(features, Prompts(**given), multimask)
    torch.testing.assert_close(logits, official.pred_masks[0], atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(quality, official.iou_scores[0], atol=1e-7, rtol=1e-7)
