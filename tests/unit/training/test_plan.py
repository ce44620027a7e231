"""Plans: derived from the data, readable, editable, and the same after a round trip."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Picture
from safetensors.torch import save_file
from trainable import pictures, volumes

from vesalius.core.errors import ChannelError, DatasetError, InputError, LabelError, UnknownName, UnreadableFile, WeightsError
from vesalius.core.labels import Label, Labels
from vesalius.io.datasets import open_dataset
from vesalius.models.catalog import build, plain
from vesalius.models.checkpoints import Imported
from vesalius.models.needs import choose_pools
from vesalius.models.swin_unet import SwinUnet, SwinUnetConfig
from vesalius.models.unet import UNet, UNetConfig
from vesalius.models.vit import Layer
from vesalius.models.weights import save
from vesalius.pipeline.predictor import TASK_KEY
from vesalius.tasks.catalog import TASKS
from vesalius.training.checkpoint import require_unedited, settled
from vesalius.training.inspect import CaseFacts, Fingerprint, fingerprint, foreground
from vesalius.training.loop import TrainOptions, difference, fitting_recipe, train
from vesalius.training.plan import COMMENTS, Data, choose_patch, derive, network, normalisation, read_plan, write_plan
from vesalius.training.recipe import RECIPES, Recipe, Slicewise, read_recipe


def facts(shape=(40, 50, 60), spacing=(1.0, 1.0, 1.0), dims=3, units=None, kinds=("int16",), cases=3):
    spacings = spacing if isinstance(spacing, list) else [spacing] * cases
    found = tuple(CaseFacts(f"c{i}", f"c{i}", shape, s, 0, 0.0) for i, s in enumerate(spacings))
    intensity = np.array([[-100.0, 50.0, 30.0, 900.0, 1200.0]])
    return Fingerprint(found, dims, 1, units, frozenset(kinds), intensity, np.array([1000, 30, 20]))


def plan_of(data, recipe=None, like=None, **changes):
    given = {"model": "unet", "recipe": recipe or Recipe(), "like": like, "resample": True, "say": lambda _: None} | changes
    return derive(data, fingerprint(data), Data(path=str(data.root), name=data.name), **given)


def test_a_fingerprint_counts_what_is_there(volume_set):
    found = fingerprint(open_dataset(volume_set))
    assert len(found.cases) == 8 and found.dims == 3 and found.median_spacing == (1.0, 1.0, 1.0)
    masks = [open_dataset(volume_set).load(case)[1].array for case in open_dataset(volume_set).cases]
    assert found.counts.tolist() == [sum(int((m == k).sum()) for m in masks) for k in (0, 1, 2)]
    assert found.median_shape == (23, 24, 20) and not found.mixed_spacing
    assert any("voxels: background" in line for line in found.describe(["a", "b"]))


def test_what_the_readers_say_is_told_once_with_a_count_of_cases(tmp_path):
    folder = pictures(tmp_path / "set", 4)
    first, second, *_ = sorted((folder / "images").iterdir())
    for file, mode in ((first, "L"), (second, "RGBA")):
        Picture.open(file).convert(mode).save(file)
    lines = fingerprint(open_dataset(folder)).describe(["disk"])
    assert "grey was repeated to RGB (1 case)" in lines and "an opaque alpha channel was dropped (1 case)" in lines
    many = replace(facts(), notes=tuple((f"note {i}", 2) for i in range(15)))
    assert many.describe(["a", "b"])[-2:] == ["note 11 (2 cases)", "and 3 notes more on how cases were read"]


def test_ignored_voxels_are_no_foreground_to_measure():
    mask = SimpleNamespace(array=np.array([[[0, 1, 1, 255, 255, 255]]], np.uint8))
    image = SimpleNamespace(array=np.arange(6.0).reshape(1, 1, 1, 6))
    assert foreground(image, mask, 255).tolist() == [[1, 2]] and foreground(image, mask).tolist() == [[1, 2, 3, 4, 5]]


def test_a_plan_survives_its_file(tmp_path, volume_set):
    plan = plan_of(open_dataset(volume_set), RECIPES["hippocampus"])
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan
    assert (tmp_path / "plan.toml").read_text().count("\n# ") >= 5


def test_weights_that_do_not_fit_are_told_before_a_plan_is_written(tmp_path, picture_set):
    alone = {name: tensor for name, tensor in Layer(24, 4, 48).state_dict().items()}
    names = {"attention.qkv": "attn.qkv", "attention.proj": "attn.proj", "mlp.layers.0": "mlp.fc1", "mlp.layers.1": "mlp.fc2"}
    state = {f"blocks.0.{names.get(n.rpartition('.')[0], n.rpartition('.')[0])}.{n.rpartition('.')[2]}": alone[n] for n in alone}
    save_file(state, tmp_path / "vit.safetensors")
    for model, error in (("unet", UnknownName), ("segvit", WeightsError)):  # takes no encoder; is of another width
        given = {"model": model, "weights": tmp_path / "vit.safetensors", "plan_only": True, "quiet": True, "device": "cpu"}
        with pytest.raises(error):
            train(picture_set, tmp_path / "run", say=lambda _: None, **given)
        assert not (tmp_path / "run").exists()
    wider = Recipe(start=str(tmp_path / "vit.safetensors"))
    grey = replace(fingerprint(open_dataset(picture_set)), channels=1)
    assert network("transunet", (1, 32, 32), grey, 2, wider, None)["in_channels"] == 3
    assert network("transunet", (1, 32, 32), grey, 2, Recipe(), None)["in_channels"] == 1


def test_a_run_begins_with_the_very_network_of_its_weights(tmp_path, picture_set):
    """Of an imported file or an earlier run, whatever would be planned for these pictures: they fit no other."""
    data = open_dataset(picture_set)
    own = UNetConfig(3, 2, widths=(4, 6, 8), norm="batch", stem_stride=(2, 2))
    imported = Imported("unet", UNet(own), None, None, 0, ()).write(tmp_path / "imported.safetensors", "official.pth")
    earlier = plan_of(data, Recipe(model={"widths": [4, 6]}, patch=(1, 32, 32)))
    trained = save(tmp_path / "run.safetensors", build("unet", earlier.task.model.config), earlier.metadata)
    for file, config in ((imported, plain(own)), (trained, earlier.task.model.config)):
        assert plan_of(data, Recipe(start=str(file), patch=(1, 32, 32))).task.model.config == config
    wanted = plan_of(data, Recipe(start=str(imported), model={"dropout": 0.1})).task.model.config
    assert wanted == plain(replace(own, dropout=0.1))
    with pytest.raises(WeightsError, match=r"weights of a 'unet', not of a 'unetpp'. Give --model unet"):
        plan_of(data, Recipe(start=str(imported)), model="unetpp")
    with pytest.raises(WeightsError, match=r"another network than that of these weights, in widths\. Name another recipe"):
        plan_of(data, Recipe(start=str(imported), model={"widths": [4, 6, 10]}))
    other = Imported("unet", UNet(replace(own, classes=5)), None, None, 0, ()).write(tmp_path / "five.safetensors", "five.pth")
    told = []
    assert plan_of(data, Recipe(start=str(other)), say=told.append).task.model.config == plain(own)
    assert any("its head begins anew, for 2 outputs in place of 5" in line for line in told)


def test_what_the_weights_do_not_say_of_their_network_is_not_taken_from_the_data(tmp_path, picture_set):
    """Of an older version, whose configuration lacks what has been added since: by default all is as it was."""
    said = {"name": "unet", "config": {"in_channels": 3, "classes": 2, "widths": [4, 6]}}
    old = save(tmp_path / "old.safetensors", UNet(UNetConfig(3, 2, widths=(4, 6))), {TASK_KEY: json.dumps({"model": said})})
    config = plan_of(open_dataset(picture_set), Recipe(start=str(old))).task.model.config
    assert config == plain(UNetConfig(3, 2, widths=(4, 6)))


def test_a_run_of_a_version_whose_plans_said_less_goes_on(tmp_path, picture_set):
    plan = plan_of(open_dataset(picture_set), Recipe())
    state = json.loads(settled(plan))
    del state["recipe"]["head_lr"], state["recipe"]["augment"]["shift"], state["task"]["clean"]
    require_unedited(plan, {"plan": json.dumps(state)}, tmp_path)
    edited = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"head_lr": 2.0})})
    with pytest.raises(InputError, match=r"recipe.head_lr was 1.0 when this run began, and is 2.0"):
        require_unedited(edited, {"plan": json.dumps(state)}, tmp_path)


def test_weights_for_colours_begin_a_run_on_grey_pictures_where_their_network_repeats_them(tmp_path):
    data = pictures(tmp_path / "data", count=4, size=(64, 64))
    for file in (data / "images").iterdir():
        Picture.open(file).convert("L").save(file)
    swin = SwinUnetConfig(3, 2, (64, 64), 4, 8, (2, 2), (1, 2), 4)
    for name, module in (("swin_unet", SwinUnet(swin)), ("unet", UNet(UNetConfig(3, 2, widths=(4, 6))))):
        file = Imported(name, module, None, None, 0, ()).write(tmp_path / f"{name}.safetensors", "official.pth")
        if name == "swin_unet":
            assert plan_of(open_dataset(data), Recipe(start=str(file)), model=name).task.model.config == plain(swin)
            continue
        with pytest.raises(WeightsError, match=r"these weights are for 3 channels, this run needs 1"):
            plan_of(open_dataset(data), Recipe(start=str(file)), model=name)


def test_a_network_of_the_papers_size_without_its_weights_is_said(tmp_path, picture_set):
    for recipe, said in ((None, True), ("default", False)):
        told = []
        given = {"model": "transunet", "recipe": recipe, "plan_only": True, "quiet": True, "device": "cpu"}
        train(picture_set, tmp_path / str(recipe), say=told.append, **given)
        assert any("--recipe default plans a smaller network" in line for line in told) == said


@pytest.mark.parametrize(
    "names, sided",
    [(("kidney_left", "kidney_right"), True), (("L lung", "R lung"), True), (("ctx-lh-insula", "ctx-rh-insula"), True),
     (("LeftHip", "RightHip"), True), (("left atrium", "left ventricle"), False), (("bright", "dark"), False)],
)  # fmt: skip
def test_labels_that_have_a_left_and_a_right_one_are_known_by_their_names(names, sided):
    assert Labels(tuple(Label(i, name) for i, name in enumerate(names, 1))).sided == sided


@pytest.mark.parametrize(
    "model, changes, kept",
    [("segvit", {}, ()), ("transunet", {}, ()), ("unet", {"flip_axes": (0, 1, 2)}, (0, 1)),
     ("unet", {"flip_axes": (0, 1, 2), "rotate_deg": 180}, ()), ("segvit", {"flip_axes": (1, 2), "axis": "sagittal"}, (1, 2))],
)  # fmt: skip
def test_left_and_right_labels_are_not_mirrored_into_each_other(volume_set, model, changes, kept):
    data, said = open_dataset(volume_set), []
    sides = replace(data, labels=Labels((Label(1, "left kidney"), Label(2, "right kidney"))))
    asked = dict(changes)
    slices = Slicewise(axis=asked.pop("axis")) if "axis" in asked else None
    own = read_recipe("default" if model == "unet" else model).of(model)
    recipe = own.model_copy(update={"augment": own.augment.model_copy(update=asked), "flips_at_test": True, "slices": slices})
    plan = plan_of(sides, recipe, model=model, say=said.append)
    assert plan.recipe.augment.flip_axes == plan.task.inference.flips == kept
    assert any("left from right" in line for line in said) == (kept != recipe.augment.flip_axes)
    assert plan_of(data, recipe, model=model).recipe.augment.flip_axes == recipe.augment.flip_axes
    again = TrainOptions(model=model, recipe=recipe)
    assert difference(plan.recipe, fitting_recipe(again, plan)) is None  # it may go on with the recipe it began with


def test_a_shipped_tasks_record_is_taken_over(picture_set):
    data = open_dataset(picture_set)
    plan = plan_of(data, like=TASKS["nuclei"], recipe=RECIPES["nuclei"])
    assert plan.task.steps == TASKS["nuclei"].steps and plan.task.decide == TASKS["nuclei"].decide
    assert plan.task.labels == TASKS["nuclei"].labels and plan.loss == "objects"


def test_a_recipe_may_give_a_shipped_task_another_depth(picture_set):
    plan = plan_of(open_dataset(picture_set), like=TASKS["nuclei"], recipe=Recipe(model={"widths": [4, 8]}, patch=(1, 32, 32)))
    config = plan.task.model.config
    assert list(config["widths"]) == [4, 8] and config["norm"] == "batch" and list(config["stem_stride"]) == [2, 2]
    plan = plan_of(open_dataset(picture_set), like=TASKS["nuclei"], recipe=Recipe(model={"widths": [4, 8, 8, 8, 8]}))
    assert list(plan.task.model.config["convs"]) == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("task, data", [("nuclei", "volume_set"), ("hippocampus", "picture_set")])
def test_a_task_of_other_images_is_refused(task, data, request):
    with pytest.raises(DatasetError, match=rf"these are (volumes|pictures), the task '{task}'"):
        plan_of(open_dataset(request.getfixturevalue(data)), like=TASKS[task])


def test_a_task_of_other_channels_is_refused(volume_set):
    four = TASKS["hippocampus"].model_copy(update={"channels": ("flair", "t1", "t1c", "t2")})
    with pytest.raises(ChannelError, match="1 channels, where the task 'hippocampus' has 4"):
        plan_of(open_dataset(volume_set), like=four)


def test_many_labels_are_told_in_one_short_line(volume_set):
    found = fingerprint(open_dataset(volume_set))
    many = replace(found, counts=np.full(126, 8))
    (line,) = [line for line in many.describe([f"label_{i}" for i in range(125)]) if line.startswith("voxels")]
    assert line.endswith("and 114 labels more") and len(line) < 300


def test_labels_that_a_task_does_not_know_are_an_error(volume_set):
    nobody = TASKS["hippocampus"].model_copy(
        update={"labels": type(TASKS["hippocampus"].labels)(TASKS["hippocampus"].labels.items[:1])}
    )
    with pytest.raises(LabelError, match="does not know"):
        plan_of(open_dataset(volume_set), like=nobody)


def test_what_the_data_ignore_stays_ignored_under_a_shipped_task(volume_set):
    data = open_dataset(volume_set)
    ignoring = replace(data, labels=replace(data.labels, ignore=255))
    assert plan_of(ignoring, like=TASKS["hippocampus"]).task.labels == replace(TASKS["hippocampus"].labels, ignore=255)
    with pytest.raises(LabelError, match="ignore 2, a label of 'hippocampus'"):
        plan_of(replace(data, labels=Labels(data.labels.items[:1], ignore=2)), like=TASKS["hippocampus"])


def test_names_that_a_task_gives_to_other_values_are_an_error(volume_set):
    data = open_dataset(volume_set)
    swapped = replace(data, labels=Labels((Label(1, "Posterior"), Label(2, "Anterior"))))
    with pytest.raises(LabelError, match=r"'Posterior' is 1 in these masks, and 2 in the task 'hippocampus'.*1 anterior"):
        plan_of(swapped, like=TASKS["hippocampus"])


@pytest.mark.parametrize("instances, loss", [(False, "objects"), (False, "dice_bce"), (True, "dice_ce")])
def test_a_loss_that_teaches_something_else_is_refused(tmp_path, picture_set, instances, loss):
    root = pictures(tmp_path, 4, instances=True) if instances else picture_set
    with pytest.raises(InputError, match="does not teach"):
        plan_of(open_dataset(root, instances=instances), Recipe(loss=loss))


def test_normalisation_follows_the_kind_of_image():
    assert normalisation(facts(units="HU")).kind == "window" and normalisation(facts(units="HU")).high == 900
    assert normalisation(facts()).kind == "zscore"
    assert normalisation(facts(dims=2, shape=(1, 50, 60), kinds=("uint8",))).kind == "scale"
    assert normalisation(facts(dims=2, shape=(1, 50, 60), kinds=("uint16",))).kind == "percentile"


def test_mixed_spacings_are_resampled_or_refused(tmp_path):
    data = open_dataset(volumes(tmp_path, 4, ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0))))
    said = []
    plan = plan_of(data, say=said.append)
    assert plan.task.steps[1].spacing_mm == (1.5, 1.0, 1.0) and "resampled to 1.5 x 1 x 1 mm" in said[0]
    with pytest.raises(DatasetError, match="different spacings"):
        plan_of(data, resample=False)


def test_a_large_image_gives_a_patch_of_its_proportions_within_the_budget():
    patch = choose_patch((100, 512, 512), 3)
    assert np.prod(patch) <= 96 * 96 * 32 and patch[1] == patch[2] and patch[0] <= patch[1]
    assert choose_patch((20, 30, 25), 3) == (20, 30, 25)
    thick = choose_patch((100, 512, 512), 3, (5.0, 0.8, 0.8))
    reach = [n * s for n, s in zip(thick, (5.0, 0.8, 0.8), strict=True)]
    assert np.prod(thick) > 0.9 * 96 * 96 * 32 and max(reach) < 1.1 * min(reach)  # in voxels alike: 315 x 54 x 54 mm
    assert choose_patch((30, 2000, 2000), 3, (100.0, 0.1, 0.1))[0] == 5  # slices are left to be seen together
    assert choose_patch((1, 900, 900), 2)[0] == 1


def test_thick_slices_are_pooled_later_than_their_plane():
    pools = choose_pools((16, 128, 128), (6.0, 1.0, 1.0), 4)
    assert pools[0] == (1, 2, 2) and pools[1] == (1, 2, 2) and pools[2][0] == 2
    assert choose_pools((40, 56, 40), (1.0, 1.0, 1.0), 4) == ((2, 2, 2),) * 3


def test_a_patch_the_network_cannot_take_becomes_the_nearest(volume_set):
    plan = plan_of(open_dataset(volume_set), Recipe(patch=(19, 23, 21), model={"widths": [4, 8, 12]}))
    assert plan.patch == (20, 24, 20) or plan.patch == (20, 24, 22)


@pytest.mark.parametrize("change, says", [("lr = 0.003", "recipe.lr"), ("kind = ", "task.steps"), ('name = "unet"', None)])
def test_a_spoilt_plan_says_where(tmp_path, volume_set, change, says):
    write_plan(plan_of(open_dataset(volume_set)), tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text()
    if says is None:
        (tmp_path / "plan.toml").write_text(text.replace(change, 'name = "unet'))
        with pytest.raises(UnreadableFile, match="TOML"):
            read_plan(tmp_path / "plan.toml")
        return
    assert change in text
    (tmp_path / "plan.toml").write_text(text.replace(change, change.replace("=", '= "x" #'), 1))
    with pytest.raises(DatasetError, match=says):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize("table", ["data", "task", "recipe", "recipe.augment", "task.inference"])
def test_a_key_that_no_plan_knows_is_refused(tmp_path, volume_set, table):
    write_plan(plan_of(open_dataset(volume_set)), tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text()
    assert f"\n[{table}]\n" in text
    (tmp_path / "plan.toml").write_text(text.replace(f"\n[{table}]\n", f"\n[{table}]\nbatchsize = 4\n"))
    with pytest.raises(DatasetError, match=f"{table}.batchsize"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize(
    "was, now, says",
    [("classes = 3", "classes = 99999999999999999999", "a network of such sizes cannot be built"),
     ("dropout = 0.0", "dropout = nan", "dropout = nan does not fit"),
     ("classes = 3", "classes = 7", "config.classes is 7, and the 2 labels of the task need 3"),
     ("in_channels = 1", "in_channels = 3", "config.in_channels is 3, and the images have 1"),
     ("widths = [4, 8, 12]", "widths = [4]", r"task\.model\.config"),
     ("patch = [16, 16, 16]", "patch = [16, 17, 16]", r"recipe\.patch is 16 x 17 x 16, which unet does not take.*16, 16, 16")],
)  # fmt: skip
def test_a_network_that_does_not_fit_its_plan_is_told_before_anything_is_written(tmp_path, volume_set, was, now, says):
    plan = plan_of(open_dataset(volume_set), Recipe(patch=(16, 16, 16), model={"widths": [4, 8, 12]}))
    file = tmp_path / "plan.toml"
    write_plan(plan, file)
    assert read_plan(file) == plan
    head, task, recipe = file.read_text().partition("[recipe]")
    changed = (head, task, recipe.replace(was, now)) if was.startswith("patch") else (head.replace(was, now), task, recipe)
    assert changed != (head, task, recipe)
    file.write_text("".join(changed))
    with pytest.raises(DatasetError, match=f"plan.toml: {says}" if "patch" in was else says):
        read_plan(file)


@pytest.mark.parametrize("model, fits", [("transunet", True), ("swin_unet", True), ("segvit", False)])
def test_a_network_for_colours_fits_grey_pictures_where_it_repeats_them(tmp_path, model, fits):
    data = pictures(tmp_path / "data", count=4, size=(64, 64))
    for file in (data / "images").iterdir():
        Picture.open(file).convert("L").save(file)
    write_plan(plan_of(open_dataset(data), Recipe(model={"in_channels": 3}), model=model), tmp_path / "plan.toml")
    if fits:
        assert read_plan(tmp_path / "plan.toml").model.config["in_channels"] == 3
        return
    with pytest.raises(DatasetError, match="in_channels is 3, and the images have 1"):
        read_plan(tmp_path / "plan.toml")


def test_a_patch_of_several_slices_does_not_fit_pictures(tmp_path, picture_set):
    write_plan(plan_of(open_dataset(picture_set), Recipe(patch=(1, 32, 32))), tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text()
    assert "patch = [1, 32, 32]" in text.split("[recipe]")[1]
    head, tail = text.split("[recipe]")
    (tmp_path / "plan.toml").write_text(head + "[recipe]" + tail.replace("patch = [1, 32, 32]", "patch = [4, 32, 32]"))
    with pytest.raises(DatasetError, match="4 x 32 x 32"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize("norm, bias", [("instance", False), ("batch", False), ("group", True), ("none", True)])
def test_no_bias_stands_in_front_of_a_norm_that_removes_it(volume_set, norm, bias):
    config = plan_of(open_dataset(volume_set), Recipe(model={"norm": norm})).task.model.config
    assert config["conv_bias"] is bias


def test_what_is_said_of_a_key_stands_right_above_it_or_on_top_of_its_table(tmp_path, volume_set):
    plan = plan_of(open_dataset(volume_set))
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan
    lines = (tmp_path / "plan.toml").read_text().splitlines()
    for name, told in COMMENTS.items():
        if f"# {told}" in lines:
            at = lines.index(f"# {told}")
            assert lines[at + 1].startswith(f"{name.rpartition('.')[2]} =") or lines[at - 1].strip("[]") == name, name
