"""Planned networks: what follows from the data, what the model adds, and who has the last word."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import nn

from vesalius.core.errors import InputError
from vesalius.models import catalog
from vesalius.models.needs import Derive, Needs

NEEDS = Needs(in_channels=3, classes=4, dims=2, patch=(96, 96), spacing_mm=(1.0, 1.0))


@dataclass(frozen=True)
class FlatConfig:
    in_channels: int = 1
    classes: int = 2
    depth: int = 7


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(derive: Derive | None = None) -> None:
        entry = replace(catalog.CATALOG["unet"], builder=nn.Module, config=FlatConfig, dims=(2,), derive=derive)
        monkeypatch.setitem(catalog.CATALOG, "flat", entry)

    return put


def test_a_config_gets_the_sizes_it_has_fields_for(listed: Any) -> None:
    listed()
    assert catalog.derived("flat", NEEDS) == {"in_channels": 3, "classes": 4, "depth": 7}


def test_a_model_derives_more_and_the_recipe_has_the_last_word(listed: Any) -> None:
    listed(lambda needs: {"depth": needs.patch[0] // 32, "classes": 9})
    assert catalog.derived("flat", NEEDS) == {"in_channels": 3, "classes": 9, "depth": 3}
    assert catalog.derived("flat", replace(NEEDS, chosen={"depth": 1})) == {"in_channels": 3, "classes": 9, "depth": 1}


def test_volumes_are_refused_by_a_model_for_pictures(listed: Any) -> None:
    listed()
    with pytest.raises(InputError, match="'flat' takes pictures, and these are volumes"):
        catalog.derived("flat", replace(NEEDS, dims=3, patch=(8, 96, 96), spacing_mm=(1.0,) * 3))


@pytest.mark.parametrize("name", ["unet", "unetpp", "attention_unet"])
@pytest.mark.parametrize(
    ("dims", "patch", "spacing", "pools"),
    [
        (2, (96, 96), (1.0, 1.0), [[2, 2]] * 4),
        (2, (20, 24), (1.0, 1.0), [[2, 2]] * 2),
        (3, (16, 48, 48), (5.0, 1.0, 1.0), [[1, 2, 2]] * 2 + [[2, 2, 2]]),
    ],
)
def test_as_many_levels_as_the_patch_allows(name: str, dims: int, patch: tuple, spacing: tuple, pools: list) -> None:
    needs = Needs(2, 3, dims, patch, spacing)
    config = catalog.derived(name, needs)
    assert config["pools"] == pools and len(config["widths"]) == len(pools) + 1 and not config["conv_bias"]
    assert (config["in_channels"], config["classes"], config["dims"]) == (2, 3, dims)
    chosen = catalog.derived(name, replace(needs, chosen={"widths": [4, 6, 8, 10, 12, 14], "norm": "none"}))
    assert chosen["pools"] == [] and chosen["conv_bias"] and len(chosen["widths"]) == 6


def test_a_tiny_patch_still_gives_the_attention_unet_a_skip_to_gate() -> None:
    config = catalog.derived("attention_unet", Needs(1, 2, 2, (9, 9), (1.0, 1.0)))
    assert config["pools"] == [[2, 2], [2, 2]] and len(config["widths"]) == 3
