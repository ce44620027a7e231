"""Words as prompts: the embedding of a pretrained CLIP text encoder, for weights that were trained with it.

    words -> CLIP text encoder -> (P, T), which PromptEncoder turns into one token each

The released SAM has no text: its authors trained another one with CLIP's image embeddings in the place of words. So does no
checkpoint that we know offer it; whoever trains one declares `text` in its SAMConfig.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 7.5 and appendix D.5; Radford et al. 2021 (CLIP), arXiv:2103.00020
Needs    the extra `text` (transformers), and CLIP's files in a folder: nothing is fetched
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import InputError, WeightsError


def embed_text(words: Sequence[str], folder: str | Path) -> Tensor:
    """(P, T) float32 embeddings of P texts by the CLIP text encoder in `folder`, in the layout of transformers.

    Raises InputError for no text or an empty one, or without transformers; WeightsError for a folder that holds no CLIP.
    """
    if not words or any(not word.strip() for word in words):
        raise InputError("a text prompt is empty", fix="say what to segment")
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError as error:
        raise InputError("text prompts need transformers", fix="pip install 'vesalius[text]'") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        encoder = CLIPTextModelWithProjection.from_pretrained(str(folder), local_files_only=True).eval()
    except Exception as error:  # transformers raises OSError, ValueError, KeyError as it likes
        fix = "name a folder with config.json, tokenizer files and weights"
        raise WeightsError(f"this is no CLIP text encoder ({error})", file=folder, fix=fix) from error
    tokens = tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return encoder(**tokens).text_embeds.float()
