"""Released weights by name: where they come from, which network they fit, how an image is prepared for them.

    download(name)        from the Hugging Face hub into the weights folder, checked where its hash is known
    import_file(...)      any official file -> our network, with every tensor accounted for
    load_checkpoint(...)  a name, or a file that `vesalius models import` wrote -> a network and the frame that belongs to it

Preparation belongs to the weights: MedSAM is ViT-B with SAM's names, and SAM's preparation would give it wrong masks that look
right. So an official file never gets a frame by its shapes alone; somebody has to say what it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import InputError, WeightsError, unknown_name
from ..core.greys import USUAL, GreyRule
from . import catalog
from .naming import Convert, State, unwrapped
from .pretrained import family_of, read_weights, takers
from .sam.frame import Frame
from .sam.official import UNUSED, config_of, to_ours
from .sam.sam import PRESETS, SAMConfig
from .stated import read_stated
from .weights import converted, file_hash, is_ignored, load_into, load_state, save

MODEL_KEY = "vesalius_model"  # of a file's metadata: JSON with model, config, frame, checkpoint and source
SAM_FRAME = Frame()
LEARNED = ("points", "boxes", "masks")  # SAM's interactive training: clicks that correct its own last answer
FOLDER = Path(".cache") / "vesalius" / "weights"  # in the home folder


@dataclass(frozen=True)
class Checkpoint:
    """One released set of weights.

    files   the names its file may have, those on the hub (`repo`) in the order in which they are tried, then the original's
    home    where the original is offered
    learned the prompts that they were trained with; others are refused, as their answers would be guesses that look right
    rates   whether they were trained to predict the IoU of their own masks
    greys   which values of images beyond 8 bits become black and white where no window is given; SAM itself knows 8 bits alone
    sha256  of those files whose hash is known
    """

    model: str
    config: SAMConfig
    repo: str
    files: tuple[str, ...]
    home: str
    licence: str
    about: str
    frame: Frame = SAM_FRAME
    learned: tuple[str, ...] = LEARNED
    rates: bool = True
    greys: GreyRule = USUAL
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> bool:
        """Whether the weights know text prompts."""
        return bool(self.config.text)


META = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
HUB = "model.safetensors"  # in the layout of transformers
HQ_REPO, HQ_HOME = "lkeab/hq-sam", "https://github.com/SysCV/sam-hq#model-checkpoints"
HQ_ABOUT = "SAM-HQ: SAM with finer edges, trained on HQSeg-44K; ViT-"

CHECKPOINTS: dict[str, Checkpoint] = {
    "sam_vit_b": Checkpoint(
        "sam",
        PRESETS["vit_b"],
        "facebook/sam-vit-base",
        (HUB, "sam_vit_b_01ec64.pth"),
        META,
        "Apache-2.0",
        "Segment Anything, ViT-B, trained on SA-1B",
        sha256={"sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"},
    ),
    "sam_vit_l": Checkpoint(
        "sam",
        PRESETS["vit_l"],
        "facebook/sam-vit-large",
        (HUB, "sam_vit_l_0b3195.pth"),
        META,
        "Apache-2.0",
        "Segment Anything, ViT-L, trained on SA-1B",
        sha256={"sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"},
    ),
    "sam_vit_h": Checkpoint(
        "sam",
        PRESETS["vit_h"],
        "facebook/sam-vit-huge",
        (HUB, "sam_vit_h_4b8939.pth"),
        META,
        "Apache-2.0",
        "Segment Anything, ViT-H, trained on SA-1B",
        sha256={"sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"},
    ),
    "mobile_sam": Checkpoint(
        "sam",
        PRESETS["tiny"],
        "dhkim2810/MobileSAM",
        ("mobile_sam.pt",),
        "https://github.com/ChaoningZhang/MobileSAM/tree/master/weights",
        "Apache-2.0",
        "MobileSAM: SAM's decoder on a TinyViT distilled from ViT-H",
        sha256={"mobile_sam.pt": "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"},
    ),
    "medsam": Checkpoint(
        "sam",
        PRESETS["vit_b"],
        "wanglab/medsam-vit-base",
        (HUB, "pytorch_model.bin", "medsam_vit_b.pth"),
        "https://github.com/bowang-lab/MedSAM",
        "Apache-2.0",
        "MedSAM: ViT-B fine-tuned with boxes on 1.5 million medical images",
        frame=Frame(aspect="stretch", intensity="min_max", decide="probabilities"),
        learned=("boxes",),  # one a slice; its training has no clicks and no earlier masks,
        rates=False,  # and its loss leaves the IoU head out: train_one_gpu.py of MedSAM's ViT-B (LiteMedSAM's does train it)
        greys=GreyRule(0.5, 99.5, positive=True, window_hu=(-160, 240)),  # pre_CT_MR.py: MR, and soft tissue in CT
    ),
    "sam_hq_vit_b": Checkpoint("sam", PRESETS["hq_vit_b"], HQ_REPO, ("sam_hq_vit_b.pth",), HQ_HOME, "Apache-2.0", HQ_ABOUT + "B"),
    "sam_hq_vit_l": Checkpoint("sam", PRESETS["hq_vit_l"], HQ_REPO, ("sam_hq_vit_l.pth",), HQ_HOME, "Apache-2.0", HQ_ABOUT + "L"),
    "sam_hq_vit_h": Checkpoint("sam", PRESETS["hq_vit_h"], HQ_REPO, ("sam_hq_vit_h.pth",), HQ_HOME, "Apache-2.0", HQ_ABOUT + "H"),
}


@dataclass(frozen=True)
class Imported:
    """A network with the weights of an official file, every tensor accounted for.

    used     how many tensors of the file went into it
    ignored  those of the file that no network needs: indices we derive, counters, an unused head
    """

    model: str
    module: nn.Module
    frame: Frame | None
    checkpoint: str | None
    used: int
    ignored: tuple[str, ...]

    @property
    def parts(self) -> dict[str, int]:
        """How many tensors each part of the network has."""
        return dict(Counter(name.split(".")[0] for name in self.module.state_dict()))

    def write(self, out: str | Path, source: str | Path) -> Path:
        """A .safetensors file that says what it is; `load_checkpoint` reads it, and load_state."""
        record = {
            "model": self.model,
            "config": catalog.plain(self.module.config),
            "frame": dataclasses.asdict(self.frame) if self.frame else None,
            "checkpoint": self.checkpoint,
            "source": Path(source).name,
        }
        return save(out, self.module, {MODEL_KEY: json.dumps(record)})


def checkpoint(name: str) -> Checkpoint:
    """The released weights called `name`; raises UnknownName with the nearest name."""
    if name not in CHECKPOINTS:
        raise unknown_name("set of released weights", name, CHECKPOINTS)
    return CHECKPOINTS[name]


def folder_of(name: str, folder: str | Path | None = None) -> Path:
    """Where the file of `name` belongs."""
    return (Path(folder) if folder else Path.home() / FOLDER) / name


def find(name: str, folder: str | Path | None = None) -> Path:
    """The file of `name` in the weights folder, its hash checked where it is known; raises WeightsError with what to do."""
    entry, place = checkpoint(name), folder_of(name, folder)
    for file in entry.files:
        if (place / file).is_file():
            return _verified(entry, place / file)
    fix = f"run `vesalius models download {name}`, or {_by_hand(name, place)}"
    raise WeightsError(f"the weights '{name}' are not here", file=place, fix=fix)


def download(name: str, folder: str | Path | None = None) -> Path:
    """The file of `name`, fetched from the hub unless it is here already; returns its path.

    HF_HUB_OFFLINE is honoured. Raises InputError without huggingface_hub, WeightsError where the hub cannot be reached, with
    the exact file and the folder where it belongs, or where the file is not the one expected.
    """
    entry, place = checkpoint(name), folder_of(name, folder)
    if any((place / file).is_file() for file in entry.files):
        return find(name, folder)
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError as error:
        by_hand = _by_hand(name, place)
        raise InputError("huggingface_hub is not installed", fix=f"pip install 'vesalius[hub]', or {by_hand}") from error
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"'{name}' is not here, and HF_HUB_OFFLINE forbids to fetch it", file=place, fix=_by_hand(name, place))
    for file in entry.files:
        try:
            return _verified(entry, Path(hf_hub_download(entry.repo, file, local_dir=place)))
        except errors.LocalEntryNotFoundError as error:  # no connection
            raise WeightsError(f"the hub cannot be reached for '{name}'", file=place, fix=_by_hand(name, place)) from error
        except errors.EntryNotFoundError:
            continue  # the repository has it under another name
        except InputError:
            raise
        except Exception as error:  # whatever a network does
            raise WeightsError(f"'{name}' could not be fetched ({error})", file=place, fix=_by_hand(name, place)) from error
    raise WeightsError(f"{entry.repo} has none of {', '.join(entry.files)}", file=place, fix=_by_hand(name, place))


def import_file(
    path: str | Path, name: str, sizes: dict[str, Any] | None = None, *, stated_in: str | Path | None = None
) -> Imported:
    """The network of an official file, `name` being released weights (medsam) or a model whose sizes the shapes tell (unet).

    `sizes` is laid over what the shapes tell, in the names of the reference files' `config`, table by table; `stated_in` is
    the file that they stand in. Raises UnknownName, InputError for sizes that cannot be, or WeightsError for tensors that do
    not fit, for another network than `name` has, and for sizes that neither the shapes nor `sizes` tell.
    """
    if name in CHECKPOINTS:
        if sizes:
            raise InputError(f"the sizes of '{name}' are known", file=stated_in, fix="leave them out")
        entry = CHECKPOINTS[name]
        state, _ = load_state(path, sha256=entry.sha256.get(Path(path).name))
        module = _sam(entry, state, path)
        return _imported(entry.model, module, state, entry.frame, name)
    if name not in catalog.CATALOG:
        raise unknown_name("model or set of released weights", name, [*CHECKPOINTS, *catalog.CATALOG])
    if catalog.entry(name).kind == "prompts":
        known = ", ".join(CHECKPOINTS)
        raise WeightsError(f"'{name}' does not say how an image is prepared", file=path, fix=f"name the weights: {known}")
    state, found = read_weights(path), catalog.entry(name)
    if (family := family_of(state)) is not None:
        able = takers(family)
        fix = f"begin a training with it: vesalius train DATASET --model {name if name in able else able[0]} --weights {path}"
        raise WeightsError(f"this is a pretrained {family} alone, not a whole '{name}'", file=path, fix=fix)
    if found.infer is None or found.official is None:
        fix = "use vesalius.models.weights.from_official with the sizes"
        raise WeightsError(f"the sizes of '{name}' cannot be read off a file", file=path, fix=fix)
    measured = _measured(name, state, path)
    module, convert = _built(name, laid_over(measured, read_stated(name, sizes or {}, stated_in)), path, stated_in)
    try:
        return _imported(name, converted(module, state, convert), state, None, None)
    except WeightsError as error:
        raise WeightsError(error.problem, file=path, fix=error.fix) from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"this is no whole '{name}': {error}", file=path, fix="fetch or copy it again") from error


def _built(name: str, told: dict[str, Any], path: str | Path, stated_in: str | Path | None) -> tuple[nn.Module, Convert]:
    """The network of the sizes `told`, and the conversion of its tensors; raises WeightsError and InputError."""
    found, where = catalog.entry(name), stated_in or path
    try:
        config, convert = found.official(told)  # type: ignore[misc]
    except KeyError as error:
        fix = "write it into a .toml or .json file and give that with --config"
        raise WeightsError(f"no tensor tells {error} of this '{name}'", file=path, fix=fix) from error
    except InputError as error:
        raise type(error)(error.problem, file=where, fix=error.fix) from error
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:  # each may be, together they cannot
        raise InputError(f"no '{name}' has these sizes: {error}", file=where, fix="change what does not fit") from error
    try:
        return found.builder(config), convert
    except InputError as error:
        raise type(error)(error.problem, file=where, fix=error.fix) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise InputError(f"no '{name}' has these sizes: {error}", file=where, fix="change what does not fit") from error


def _measured(name: str, state: State, path: str | Path) -> dict[str, Any]:
    """The sizes that the tensors of a whole official file tell; raises WeightsError, also for a part of one."""
    try:
        return catalog.entry(name).infer(state)  # type: ignore[misc]
    except WeightsError as error:
        raise WeightsError(error.problem, file=path, fix=error.fix) from error
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise WeightsError(f"this is no whole '{name}': {error}", file=path, fix="fetch or copy it again") from error


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, table by table."""
    tables = {key: laid_over(below[key], value) for key, value in above.items() if isinstance(value, dict) and key in below}
    return {**below, **above, **tables}


def load_checkpoint(what: str | Path, folder: str | Path | None = None) -> tuple[nn.Module, Frame]:
    """A promptable network in eval mode and its frame: of released weights by name, or a file of `vesalius models import`.

    Raises WeightsError for weights that are not here, for a file that does not say what it is, and for another kind of model.
    """
    if str(what) in CHECKPOINTS:
        name = str(what)
        path = find(name, folder)
        state, _ = load_state(path)
        return _sam(CHECKPOINTS[name], state, path), CHECKPOINTS[name].frame
    state, metadata = load_state(what)
    if MODEL_KEY not in metadata:
        known = ", ".join(CHECKPOINTS)
        raise WeightsError(
            "this file does not say which weights it holds, so nobody knows how to prepare an image for it",
            file=what,
            fix=f"run `vesalius models import {Path(what).name} --as NAME -o out.safetensors` with one of {known}",
        )
    record = json.loads(metadata[MODEL_KEY])
    if record["frame"] is None:
        raise WeightsError(f"'{record['model']}' takes no prompts", file=what, fix=f"give one of {', '.join(CHECKPOINTS)}")
    module = catalog.build(record["model"], record["config"])
    load_into(module, state, file=Path(what))
    return module.eval(), catalog.make_config(Frame, record["frame"])


def _sam(entry: Checkpoint, state: State, path: str | Path) -> nn.Module:
    state = unwrapped(state)
    try:
        config = config_of(state)
    except WeightsError as error:
        raise WeightsError(error.problem, file=path, fix=error.fix) from error
    except (LookupError, ValueError, TypeError, ArithmeticError, InputError) as error:
        raise WeightsError(f"this is no whole SAM: {error}", file=path, fix="fetch or copy it again") from error
    if config != entry.config:
        differing = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(entry.config, f.name)]
        raise WeightsError(f"this is another network than expected, in {', '.join(differing)}", file=path, fix="check the name")
    return converted(catalog.entry(entry.model).builder(config), state, to_ours)


def _imported(model: str, module: nn.Module, state: State, frame: Frame | None, name: str | None) -> Imported:
    ignored = tuple(k for k in state if is_ignored(k) or (model == "sam" and any(part in k for part in UNUSED)))
    return Imported(model, module, frame, name, len(state) - len(ignored), ignored)


def _verified(entry: Checkpoint, path: Path) -> Path:
    expected = entry.sha256.get(path.name)
    if expected is not None and file_hash(path) != expected:
        raise WeightsError("the file is not the one expected (sha256 differs)", file=path, fix="delete it and fetch it again")
    return path


def _by_hand(name: str, place: Path) -> str:
    entry = CHECKPOINTS[name]
    return f"put {' or '.join(entry.files)} (from the hub's {entry.repo}, or {entry.home}) into {place}"
