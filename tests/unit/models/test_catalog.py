"""The catalog: names, fields and values are checked before anything is built."""

import pytest

from vesalius.core.errors import InputError, UnknownName
from vesalius.models.catalog import CATALOG, build, entry, make_config, plain
from vesalius.models.layouts import nnunet, residual_encoder
from vesalius.models.unet import UNetConfig


def test_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'unet'"):
        entry("u-net")


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'widths'"):
        build("unet", {"width": [8, 16]})


@pytest.mark.parametrize("wrong", [{"norm": "layer"}, {"widths": ["many"]}, {"dims": "two"}, {"widths": 8}])
def test_a_value_that_does_not_fit_is_named(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        build("unet", wrong)


def test_lists_from_toml_become_the_config() -> None:
    model = build("unet", {"widths": [4, 8], "pools": [[2, 1]], "norm": "batch"})
    assert model.config == UNetConfig(widths=(4, 8), pools=((2, 1),), norm="batch")


@pytest.mark.parametrize("config", [nnunet(), residual_encoder()])
def test_presets_survive_being_written_down(config: UNetConfig) -> None:
    assert make_config(UNetConfig, plain(config)) == config


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.kind == "segmenter"])
def test_an_entry_says_where_weights_are_to_be_had_and_under_which_licence(name: str) -> None:
    said = CATALOG[name].weights
    assert any(place in said for place in ("github.com/", "zenodo.org/", "huggingface.co/", "storage.googleapis.com/"))
    assert any(licence in said for licence in ("MIT", "Apache-2.0", "GPL", "licence"))
    assert "models import" in said or "train --weights" in said
