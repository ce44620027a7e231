"""The ResNet of transformers' hybrid ViT, a BiT, is the one of TransUNet: every tensor by its name and its size."""

import pytest
import torch

from vesalius.models.catalog import build
from vesalius.models.pretrained import from_hf_vit


def test_every_tensor_of_a_hybrids_bit_has_its_place_in_transunet() -> None:
    """Bottlenecks cut behind the third block, as in google/vit-hybrid-base-bit-384."""
    bit = pytest.importorskip("transformers.models.bit.modeling_bit")
    from transformers import BitConfig

    sizes = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 9], "layer_type": "bottleneck"}
    padding = {"global_padding": "same", "embedding_dynamic_padding": True}
    with torch.device("meta"):
        theirs = bit.BitBackbone(BitConfig(**sizes, **padding, out_features=["stage3"])).state_dict()
        ours = build("transunet").state_dict()
    found = from_hf_vit({f"embeddings.patch_embeddings.backbone.{name}": tensor for name, tensor in theirs.items()})
    wanted = {name: tensor.shape for name, tensor in ours.items() if name.startswith("resnet.")}
    assert {name: tensor.shape for name, tensor in found.items()} == wanted
