"""Words as prompts: the embedding of a pretrained CLIP text encoder, for weights that were trained with it.

    words -> CLIP text encoder -> (P, T), which PromptEncoder turns into one token each

The released SAM has no text: its authors trained another one with CLIP's image embeddings in the place of words. So does no
checkpoint that we know offer it; whoever trains one declares `text` in its SAMConfig.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 7.5 and appendix D.5; Radford et al. 2021 (CLIP), arXiv:2103.00020
Needs    the extra `text` (transformers), and CLIP's files in a folder: nothing is fetched
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, WeightsError

KINDS = ("clip", "clip_text_model")  # a whole CLIP, or its text half
FIX = "name a folder with config.json, tokenizer files and weights of a CLIP, as transformers saves them"


def embed_text(words: Sequence[str], folder: str | Path) -> Tensor:
    """(P, T) float32 embeddings of P texts by the CLIP text encoder in `folder`. Raises as `text_encoder` and what it returns."""
    return text_encoder(folder)(words)


def require_encoder(folder: str | Path) -> None:
    """Raises WeightsError where `folder` is none, or its config.json speaks of no CLIP; nothing is loaded."""
    if not Path(folder).is_dir():
        raise WeightsError("there is no such folder of a text encoder", file=folder, fix=FIX)
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type", "nothing")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError("this is no CLIP text encoder: its config.json cannot be read", file=folder, fix=FIX) from error
    if kind not in KINDS:
        raise WeightsError(f"this is no CLIP text encoder: its config.json speaks of {kind}", file=folder, fix=FIX)


def text_encoder(folder: str | Path) -> Callable[[Sequence[str]], Tensor]:
    """The CLIP text encoder in `folder`, in the layout of transformers: P texts -> embeddings (P, T) float32.

    Raises InputError without transformers; WeightsError for a folder that holds no CLIP, or a part of one. What it returns
    raises InputError for no text or an empty one.
    """
    require_encoder(folder)
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError as error:
        raise InputError("text prompts need transformers", fix="pip install 'vesalius[text]'") from error
    try:
        with _no_bars():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            load: Any = CLIPTextModelWithProjection.from_pretrained
            encoder, read = load(str(folder), local_files_only=True, output_loading_info=True)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError as it likes
        raise WeightsError(f"this is no CLIP text encoder ({error})", file=folder, fix=FIX) from error
    if absent := sorted(name for name in read["missing_keys"] if not name.endswith("position_ids")):
        raise WeightsError(f"this CLIP lacks {len(absent)} tensors, such as {absent[0]}", file=folder, fix=FIX)
    encoder = encoder.eval()

    def embed(words: Sequence[str]) -> Tensor:
        if not words or any(not word.strip() for word in words):
            raise InputError("a text prompt is empty", fix="say what to segment")
        tokens = tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return encoder(**tokens).text_embeds.float()

    return embed


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which would stand on stderr whatever --quiet says."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
