"""What a run asks of a network, and what follows from it: `derive` of a catalog entry turns Needs into fields of its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import InputError

SMALLEST_EDGE = 5  # an axis is pooled while it keeps this many voxels: 40 -> 20 -> 10 -> 5


@dataclass(frozen=True)
class Needs:
    """What is known when a network is planned for a dataset.

    in_channels, classes  of the images, and of the answer
    dims                  2 for pictures, 3 for volumes
    patch                 training patch in voxels, (Y, X) or (Z, Y, X); later brought to the nearest size the network takes
    spacing_mm            of its voxels in the same order, ones where the data carry none
    pretrained            whether the network begins with an encoder that others trained, on colours
    deep_supervision      whether the recipe wants auxiliary outputs in training
    chosen                fields of the config that the recipe sets itself: they have the last word
    """

    in_channels: int
    classes: int
    dims: int
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    deep_supervision: bool = True
    pretrained: bool = False
    chosen: Mapping[str, Any] = field(default_factory=dict)


Derive = Callable[[Needs], dict[str, Any]]  # fields beside in_channels, classes and dims, which every config gets


def choose_pools(sizes: tuple[int, ...], spacing: tuple[float, ...], most: int) -> tuple[tuple[int, ...], ...]:
    """Strides per level: 2 where an axis is long enough and its voxels are no coarser than twice the finest."""
    pools: list[tuple[int, ...]] = []
    while len(pools) < most:
        pool = tuple(
            2 if n >= 2 * SMALLEST_EDGE - 1 and s <= 2 * min(spacing) else 1 for n, s in zip(sizes, spacing, strict=True)
        )
        if max(pool) == 1:
            break
        pools.append(pool)
        sizes = tuple(-(-n // p) for n, p in zip(sizes, pool, strict=True))
        spacing = tuple(s * p for s, p in zip(spacing, pool, strict=True))
    return tuple(pools) or ((2,) * len(sizes),)


def levels_for(needs: Needs, widths: tuple[int, ...], least: int = 1) -> dict[str, Any]:
    """`widths` and `pools` of a U-shaped network: as many of `widths` as the patch allows, at least `least` pools.

    Where the recipe chose widths of another number, pools are left to the config's own default.
    """
    pools = choose_pools(needs.patch, needs.spacing_mm, len(widths) - 1)
    pools += ((2,) * needs.dims,) * (least - len(pools))
    chosen = needs.chosen.get("widths", widths[: len(pools) + 1])
    return {"widths": widths[: len(pools) + 1], "pools": pools if len(chosen) == len(pools) + 1 else ()}


def bias_matters(norm: str) -> bool:
    """Whether a convolution in front of `norm` needs a bias.

    An instance or batch norm subtracts it again: its gradient would be rounding, which AdamW would follow.
    """
    return norm not in ("instance", "batch")


def check_dims(name: str, dims: tuple[int, ...], wanted: int) -> None:
    """Raises InputError where a model of `dims` dimensions is wanted for data of others."""
    if wanted not in dims:
        kinds = {2: "pictures", 3: "volumes"}
        raise InputError(
            f"the model '{name}' takes {' and '.join(kinds[d] for d in dims)}, and these are {kinds[wanted]}",
            fix="take a model whose dims fit, see `vesalius models`",
        )
