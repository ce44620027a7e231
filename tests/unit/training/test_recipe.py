"""Recipes by name and from files, and what a wrong one says."""

import pytest

from vesalius.core.errors import InputError, UnknownName, UnreadableFile
from vesalius.models.catalog import CATALOG
from vesalius.training.loop import TrainOptions, chosen_recipe
from vesalius.training.losses import LOSSES, OWN
from vesalius.training.recipe import RECIPES, read_recipe


def test_every_model_of_the_catalog_finds_its_recipe_and_loss():
    trained = [entry for entry in CATALOG.values() if entry.kind == "segmenter"]
    assert all(entry.recipe in RECIPES and entry.loss in LOSSES | OWN for entry in trained)
    assert CATALOG["vesalius_mini"].recipe in RECIPES
    assert all(recipe.loss is None or recipe.loss in LOSSES for recipe in RECIPES.values())


def test_a_file_overrides_its_base_key_by_key(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('\ufeffbase = "nuclei"\nlr = 1e-4\n[augment]\nrotate_deg = 5\n[model]\nwidths = [8, 16]\n')
    mine, base = read_recipe(file), RECIPES["nuclei"]
    assert mine.lr == 1e-4 and mine.augment.rotate_deg == 5 and mine.model == {"widths": [8, 16]}
    assert mine.augment.flip_axes == base.augment.flip_axes and mine.batch == base.batch


@pytest.mark.parametrize(
    "text, error, says",
    [
        ("learning_rate = 1", InputError, "learning_rate"),
        ("lr = -1", InputError, "lr"),
        ("lr = inf", InputError, "lr"),
        ("[augment]\nrotate_p = 2", InputError, "augment.rotate_p"),
        ("[augment]\nflip_axes = [3]", InputError, "augment.flip_axes"),
        ("[augment]\nscale = [1.4, 0.7]", InputError, "from low to high"),
        ("patch = [1, -32, 32]", InputError, "patch"),
        ("lr = ", UnreadableFile, "TOML"),
        ('base = "nucleii"', UnknownName, "nuclei"),
    ],
)
def test_a_wrong_file_says_which_line(tmp_path, text, error, says):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(error, match=says):
        read_recipe(file)


def test_an_absent_file_and_an_unknown_name_differ(tmp_path):
    with pytest.raises(UnreadableFile):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(UnknownName, match="Did you mean 'nuclei'"):
        read_recipe("nucli")


@pytest.mark.parametrize("files, says", [
    ({"a.toml": "a.toml"}, "a.toml: the recipe names itself as base"),
    ({"a.toml": "b.toml", "b.toml": "a.toml"}, "a.toml: the recipe is its own base, by way of b.toml"),
    ({"a.toml": "b.toml", "b.toml": "c.toml", "c.toml": "b.toml"}, "b.toml: the recipe is its own base, by way of c.toml"),
])  # fmt: skip
def test_a_recipe_cannot_be_its_own_base(tmp_path, monkeypatch, files, says):
    monkeypatch.chdir(tmp_path)
    for name, base in files.items():
        (tmp_path / name).write_text(f'base = "{base}"\n')
    with pytest.raises(InputError) as caught:
        read_recipe("a.toml")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_differs_for_a_model_that_is_not_there_is_told(tmp_path):
    (tmp_path / "mine.toml").write_text("[each.unett]\nlr = 1e-4\n")
    with pytest.raises(UnknownName, match="Did you mean 'unet'"):
        chosen_recipe(TrainOptions(recipe=tmp_path / "mine.toml"), "unet")


def test_one_base_may_be_reached_through_several_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.toml").write_text('base = "nuclei"\nlr = 1e-4\n')
    (tmp_path / "a.toml").write_text('base = "b.toml"\nbatch = 3\n')
    assert (read_recipe("a.toml").lr, read_recipe("a.toml").batch) == (1e-4, 3)
    assert read_recipe("b.toml").batch == RECIPES["nuclei"].batch


def test_a_base_lies_beside_the_recipe_that_names_it_wherever_one_stands(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "more").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "recipes" / "base.toml").write_text("lr = 1e-4\n")
    (tmp_path / "elsewhere" / "base.toml").write_text("lr = 0.5\n")
    (tmp_path / "recipes" / "mine.toml").write_text('base = "base.toml"\n')
    (tmp_path / "recipes" / "more" / "deep.toml").write_text('base = "../mine.toml"\nbatch = 3\n')
    monkeypatch.chdir(tmp_path / "elsewhere")
    for file in (tmp_path / "recipes" / "mine.toml", "../recipes/mine.toml", "../recipes/more/deep.toml"):
        assert read_recipe(file).lr == 1e-4
    (tmp_path / "absolute.toml").write_text(f'base = "{tmp_path / "elsewhere" / "base.toml"}"\n')
    assert read_recipe(tmp_path / "absolute.toml").lr == 0.5
