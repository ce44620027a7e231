"""What may be stated beside an official file: sizes that no tensor tells, in the names of the reference files' `config`.

A name that no layout knows, or a value of another kind, would be passed over or end in a fault: both are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from ..core.errors import InputError, UnknownName, unknown_name

Counts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Layers = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
Size = PositiveInt | tuple[PositiveInt, PositiveInt]

ENDS: dict[str, Any] = {"in_channels": PositiveInt, "classes": PositiveInt}
NNUNET: dict[str, Any] = {
    "layout": str,
    "dims": Literal[2, 3],
    "base": PositiveInt,
    "widths": Counts,
    "pools": Annotated[tuple[Counts, ...], Field(min_length=1)],
    "first_kernel": Counts,
    "kernels": Annotated[tuple[Counts, ...], Field(min_length=1)],
    "max_features": PositiveInt | None,
}
HEADS: dict[str, Any] = {"heads": PositiveInt, "layers": PositiveInt, "embed_dim": PositiveInt}

STATED: dict[str, dict[str, Any]] = {
    "unet": {**ENDS, **NNUNET, "upsampling": str, "deep_supervision": Literal["no", "training", "always"]},
    "unetpp": {**ENDS, **NNUNET, "deep_supervision": bool},
    "attention_unet": {**ENDS, "dims": Literal[2, 3], "widths": Counts, "feature_scale": PositiveInt, "gates": str},
    "transunet": {
        **ENDS,
        "image_size": Size,
        "hidden": PositiveInt,
        "mlp": PositiveInt,
        "heads": PositiveInt,
        "layers": PositiveInt,
        "resnet_layers": tuple[PositiveInt, ...] | None,
        "width_factor": PositiveFloat | None,
        "grid": tuple[PositiveInt, PositiveInt] | None,
        "patch_size": Size | None,
        "decoder_channels": Counts,
        "skip_channels": tuple[NonNegativeInt, ...],
        "skips": NonNegativeInt,
    },
    "swin_unet": {
        **ENDS,
        "image_size": Size,
        "patch_size": PositiveInt,
        "embed_dim": PositiveInt,
        "depths": Counts,
        "heads": Counts,
        "window": PositiveInt,
    },
    "segvit": {
        "backbone": {
            **HEADS,
            "in_channels": PositiveInt,
            "image_size": Size,
            "patch_size": PositiveInt,
            "out_layers": Layers,
            "shrink_at": int | None,
        },
        "head": {**HEADS, "kind": str, "classes": PositiveInt, "stages": PositiveInt, "use_proj": bool},
    },
}


def read_stated(model: str, values: Mapping[str, Any], file: str | Path | None = None) -> dict[str, Any]:
    """`values`, each of the kind that `model` has it in; `file` is where they stand. Raises UnknownName, and InputError."""
    return _read(f"size of '{model}'", "", values, STATED[model], file)


def _read(what: str, table: str, values: Any, kinds: Mapping[str, Any], file: str | Path | None) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        fix = f"give a table of {', '.join(kinds)}"
        raise InputError(f"{table.removesuffix('.')} = {values!r} is no table", file=file, fix=fix)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kinds:
            error = unknown_name(what, f"{table}{key}", [table + name for name in kinds])
            raise UnknownName(error.problem, file=file, fix=error.fix)
        if isinstance(kinds[key], dict):
            found[key] = _read(what, f"{table}{key}.", value, kinds[key], file)
            continue
        try:
            found[key] = TypeAdapter(kinds[key]).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{table}{key} = {value!r} does not fit", file=file, fix=error.errors()[0]["msg"]) from error
    return found
