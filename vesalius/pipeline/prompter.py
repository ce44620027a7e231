"""A promptable model ready to use: it looks at pictures, and knows what it wants to see.

    picture (H, W, 3) uint8 --frame.prepare, embed--> features --decode(prompts)--> low-resolution logits --frame.restore--> masks

The features are the dear part: they are made once a picture and may be kept in an `EmbeddingCache`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import InputError, WeightsError
from ..core.greys import USUAL, GreyRule
from ..models.checkpoints import CHECKPOINTS, LEARNED, MODEL_KEY, find, import_file, load_checkpoint
from ..models.contract import Prompts, PromptSegmenter
from ..models.sam.frame import Frame
from ..models.sam.text import require_encoder
from ..models.sam.text import text_encoder as encoder_in
from ..models.weights import file_hash, keep_bf16, read_metadata
from .embeddings import EmbeddingCache, key_of
from .everything import STABLE
from .glancer import IN_THE_BOX, find_views, load_glancer, read_views
from .looks import Asked, Look, Proposals, Taps, taps_of
from .memory import keep_freed_memory
from .predictor import choose_device
from .propagation import Carry
from .solids import read_cubes
from .tiled import Precision, use_bf16

CPU = torch.device("cpu")
BELIEF = 10.0  # |logit| of a mask that the user gives: as sure as SAM's own masks are inside
TEXTLESS = "these weights know no words, as the released SAM was trained without text prompts"
ENCODER = "give its folder: --text-encoder FOLDER, in Python load_prompter(..., text_encoder=FOLDER)"


class Prompter(Protocol):
    """What a session needs of a model.

    name         how the user calls it
    identity     the hash of its weights and of how it sees, so that no embedding of another model is taken for its own
    learned      the prompts that it was trained with, of points, boxes and masks: a session refuses others
    refines      whether it learned to build on its own last answer, when a click corrects that
    rates        whether it learned to predict the IoU of its masks, so that propagation may stop by it
    stable       the stability score that everything mode asks of its masks where the user names none
    carries      what a mask gives the next slice: itself, its box, or both
    greys        which values of images beyond 8 bits become black and white where no window is given
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def learned(self) -> tuple[str, ...]: ...

    @property
    def refines(self) -> bool: ...

    @property
    def rates(self) -> bool: ...

    @property
    def stable(self) -> float: ...

    @property
    def carries(self) -> Carry: ...

    @property
    def greys(self) -> GreyRule: ...

    def look(self, picture: np.ndarray, cache: EmbeddingCache | None = None) -> Look:
        """See a picture (H, W, 3) uint8."""
        ...

    def words(self, text: str) -> Tensor:
        """(T,) the embedding of a text prompt; raises InputError where the weights know none."""
        ...


@dataclass(frozen=True, eq=False)
class FramePrompter:
    """A PromptSegmenter with the frame that belongs to its weights. `embed_text` turns words into (T,), where they know text."""

    name: str
    model: PromptSegmenter
    frame: Frame
    identity: str
    device: torch.device = CPU
    bf16: bool = False
    greys: GreyRule = USUAL
    embed_text: Callable[[str], Tensor] | None = None
    learned: tuple[str, ...] = LEARNED
    rates: bool = True
    stable: float = STABLE

    @property
    def refines(self) -> bool:
        return {"points", "masks"} <= set(self.learned)

    @property
    def carries(self) -> Carry:
        return "both" if "masks" in self.learned else "box"

    def look(self, picture: np.ndarray, cache: EmbeddingCache | None = None) -> FrameLook:
        """See a picture (H, W, 3) uint8, or remember it."""
        key = key_of(picture, f"{self.identity} {self.frame} {self.arithmetic}")
        kept = cache.recall(key) if cache is not None else None
        if kept is not None and "features" in kept:
            features = torch.from_numpy(kept["features"]).to(self.device, memory_format=torch.channels_last)  # as from `embed`
            return FrameLook(self, features, picture.shape[:2])
        with self.computing():
            features = self.model.embed(self.frame.prepare(picture).to(self.device)).float()
        if cache is not None:
            cache.keep(key, {"features": features.cpu().numpy()})
        return FrameLook(self, features, picture.shape[:2])

    def words(self, text: str) -> Tensor:
        """(T,) the embedding of a text prompt; raises InputError where the weights know none."""
        if not getattr(self.model, "knows_text", False):
            raise InputError(f"'{self.name}': {TEXTLESS}", fix="give points or a box, or weights that declare text")
        if self.embed_text is None:
            raise InputError(f"'{self.name}' needs a CLIP text encoder", fix=ENCODER)
        return self.embed_text(text)

    @property
    def arithmetic(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inference in the arithmetic chosen."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield


class FrameLook:
    """A picture of `size` (H, W) by its features (1, D, s, s). States are low-resolution logits (n, 4 s, 4 s)."""

    def __init__(self, prompter: FramePrompter, features: Tensor, size: tuple[int, ...]):
        self.prompter, self.frame, self.features = prompter, prompter.frame, features
        self.size = (int(size[0]), int(size[1]))

    @property
    def cells(self) -> int:
        """The side of a state."""
        return 4 * self.features.shape[-1]

    @cached_property
    def taps(self) -> tuple[Taps, Taps] | None:
        if self.frame.decide != "logits":
            return None  # what is interpolated are probabilities: near 0 and 1 their rounding moves logits more than bounds allow
        rows, columns = (taps_of(self._weights(axis)) for axis in (0, 1))
        return rows, columns

    def ask(self, asked: Asked, *, multimask: bool) -> Proposals:
        place = self.features.device
        with self.prompter.computing():
            prompts = self._prompts(asked, place)
            answers = self.prompter.model.decode(self.features, prompts, multimask, least_iou=asked.least_iou)
        return Proposals(answers.iou.float(), answers.logits.float())

    def full(self, state: Tensor) -> Tensor:
        with torch.inference_mode():
            scores = self.frame.restore(state[:, None].to(self.features.device), self.size)[:, 0]  # masks wait on the CPU
            return scores if self.frame.decide == "logits" else scores.logit(eps=1e-6)

    def believed(self, mask: np.ndarray) -> Tensor:
        inner = self.frame.inner(self.size)
        share = F.interpolate(torch.from_numpy(mask).float()[None, None], inner, mode="bilinear", antialias=True)
        share = F.pad(share, (0, self.frame.size - inner[1], 0, self.frame.size - inner[0]))
        share = F.adaptive_avg_pool2d(share, self.cells)[0]
        return ((2 * share - 1) * BELIEF).to(self.features.device)

    def _prompts(self, asked: Asked, place: torch.device) -> Prompts:
        return Prompts(
            points=None if asked.points is None else self.frame.points(asked.points, self.size).to(place),
            labels=None if asked.labels is None else torch.from_numpy(np.asarray(asked.labels)).to(place),
            boxes=None if asked.boxes is None else self.frame.boxes(asked.boxes, self.size).to(place),
            masks=None if asked.states is None else asked.states[:, None].to(place),
            text=None if asked.text is None else asked.text.to(place),
        )

    def _weights(self, axis: int) -> Tensor:
        """(pixels, cells) of `frame.restore` along one axis: it interpolates along each on its own."""
        lines = torch.eye(self.cells)[None]  # a line for each cell, lit there alone
        if self.frame.aspect == "keep":
            lines = F.interpolate(lines, self.frame.size, mode="linear")[..., : self.frame.inner(self.size)[axis]]
        return F.interpolate(lines, self.size[axis], mode="linear")[0].T


def load_prompter(
    what: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    text_encoder: str | Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> Prompter:
    """The promptable model `what`: the name of released weights, a file of `vesalius models import`, or weights of a run of
    `vesalius train`; by default our own in the package.

    `weights` is the file where it does not lie in the weights folder: an official one, which `what` names, or an imported one.
    `text_encoder` is a CLIP in a folder, for weights that know words; it is read when the first words come, nothing is fetched.
    Raises WeightsError for weights that are not here or do not fit, UnknownName, InputError for an absent device.
    """
    place = choose_device(device)
    bf16 = use_bf16(precision, place)
    if place.type == "cpu":
        keep_freed_memory()  # a fifth of the time of a prompt
    if text_encoder is not None:
        require_encoder(text_encoder)  # before weights are read
    ours = find_views(IN_THE_BOX if what is None else what) if weights is None else Path(weights)
    if ours is not None and (entry := read_views(ours)) is not None:
        return load_glancer(ours, entry, place, bf16)
    if ours is not None and read_cubes(ours) is not None:
        fix = f"name {IN_THE_BOX}, which asks them where a volume is prompted, or give Session(..., sibling=FILE)"
        raise WeightsError("these weights see volumes and no pictures", file=ours, fix=fix)
    name, path, model, frame = _released(what, weights)
    origin = CHECKPOINTS.get(name if name in CHECKPOINTS else _told(path) or "")
    embed = None if text_encoder is None else cache(partial(_words, cache(partial(encoder_in, text_encoder))))
    settled: Any = model.requires_grad_(False).to(place)
    settled = keep_bf16(settled) if bf16 else settled
    greys, learned, rates = (origin.greys, origin.learned, origin.rates) if origin else (USUAL, LEARNED, True)
    return FramePrompter(name, settled, frame, file_hash(path), place, bf16, greys, embed, learned, rates)


def _released(what: str | Path | None, weights: str | Path | None) -> tuple[str, Path, Any, Frame]:
    """Released weights, official or imported: their name, file, network and frame."""
    if weights is not None and str(what) in CHECKPOINTS:
        told, path = _told(Path(weights)), Path(weights)
        if told is None:
            imported = import_file(path, str(what))
            assert imported.frame is not None
            return str(what), path, imported.module.eval(), imported.frame
        if told != str(what):
            raise WeightsError(f"this file holds '{told}', not '{what}'", file=path, fix=f"give --model {told}, or another file")
        return str(what), path, *load_checkpoint(path)
    named = str(what) if weights is None else str(weights)
    if named not in CHECKPOINTS and not Path(named).is_file():
        raise WeightsError(f"there are no promptable weights '{named}'", fix=_choices())
    path = find(named) if named in CHECKPOINTS else Path(named)
    return named if named in CHECKPOINTS else path.stem, path, *load_checkpoint(named)


def _told(path: Path) -> str | None:
    """Which released weights a file of `vesalius models import` says that it holds; None for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    checkpoint = json.loads(read_metadata(path).get(MODEL_KEY, "{}")).get("checkpoint")
    return None if checkpoint is None else str(checkpoint)


def _words(encoder: Callable[[], Callable[[Sequence[str]], Tensor]], text: str) -> Tensor:
    return encoder()([text])[0]


def _choices() -> str:
    others = f"--model NAME ({', '.join(CHECKPOINTS)}) after `vesalius models download NAME`"
    return f"give --model {IN_THE_BOX}, which is in the package, {others}, or a file that `vesalius models import` wrote"
