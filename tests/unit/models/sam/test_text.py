"""Words become embeddings by a CLIP text encoder in a folder, here a tiny one with random weights."""

from pathlib import Path

import pytest
import torch

from vesalius.core.errors import InputError, WeightsError
from vesalius.models.sam.text import embed_text

pytest.importorskip("transformers", reason="transformers, of the extra `text`, is not installed")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "<unknown>": 3, "nucleus": 4, "polyp": 5}, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=8
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=6,
        hidden_size=8,
        intermediate_size=8,
        projection_dim=10,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        eos_token_id=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


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
