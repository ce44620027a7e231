"""What a network holds is counted, not guessed."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from vesalius.core.image import Grid, Image
from vesalius.models.catalog import build
from vesalius.models.contract import Outputs
from vesalius.pipeline.memory import WORKSPACE, Budget, activation_bytes, readable
from vesalius.transforms.spatial import Resample, prepare


class Chain(nn.Module):
    """Five convolutions in a row: while one runs, only its input and its output need to live."""

    dims = 3

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv3d(i, o, 3, padding=1) for i, o in ((1, 10), (10, 10), (10, 10), (10, 10), (10, 2))))

    def forward(self, x):
        return Outputs(self.body(x))


def test_the_peak_of_a_chain_is_two_neighbouring_maps():
    classes, held = activation_bytes(Chain(), (1, 8, 8, 8), dims=3, bf16=False)
    voxels = 8 * 8 * 8
    ends = 4 * voxels * (1 + 2 * 2)
    live = 4 * voxels * (10 + 10)
    assert classes == 2
    assert live * WORKSPACE <= held - ends <= (live + 4 * voxels * 3) * WORKSPACE + 1000


def test_half_the_precision_takes_half_the_memory():
    full, half = (activation_bytes(Chain(), (1, 16, 16, 16), dims=3, bf16=bf16)[1] for bf16 in (False, True))
    ends = 4 * 16**3 * 5
    assert abs((half - ends) / (full - ends) - 0.5) < 0.05


def test_a_tile_is_counted_once_for_all_pages_of_a_stack():
    model, seen = Chain(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    first, second = (activation_bytes(model, (1, 8, 8, 8), dims=3, bf16=False) for _ in range(2))
    assert first == second and len(seen) == 1
    assert activation_bytes(model, (1, 8, 8, 16), dims=3, bf16=False) > first and len(seen) == 2


def test_counting_touches_neither_weights_nor_memory():
    model = build("unet", {"dims": 3, "classes": 3, "widths": [32, 64, 128]})
    before = {name: (t.device, t.dtype, t.data_ptr()) for name, t in model.state_dict().items()}
    _, held = activation_bytes(model, (1, 512, 512, 512), dims=3, bf16=False)
    assert held > 2**34  # sixteen gigabytes, which nobody allocated
    assert before == {name: (t.device, t.dtype, t.data_ptr()) for name, t in model.state_dict().items()}


def test_the_budget_keeps_back_what_image_and_way_home_need():
    import numpy as np

    image = Image(np.zeros((1, 20, 64, 64), np.float32), Grid((20, 64, 64), np.eye(4)))
    small, restore = prepare(image, (Resample(spacing_mm=(2.0, 2.0, 2.0)),))
    budget = Budget.of(30_000_000, image, small, restore, 14)
    assert budget.tiles is not None and budget.tiles < 30_000_000 - image.array.nbytes - small.array.nbytes
    assert Budget.of(8_000_000, image, small, restore, 14).slices < budget.slices
    assert Budget.of(None, image, small, restore, 14).tiles is None


def test_sizes_are_said_as_people_say_them():
    assert [readable(n) for n in (0, 999, 1_400_000_000)] == ["0 bytes", "999 bytes", "1.4 GB"]
    assert torch.get_default_dtype() == torch.float32


FAULTS = """
import resource, torch
from vesalius.pipeline.memory import keep_freed_memory

def faults():
    began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(8 << 20, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began

print(faults(), keep_freed_memory(), faults(), faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_tile_unless_the_user_has_chosen_otherwise():
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}

    def told(env):
        return subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True).stdout.split()

    before, kept, _, after = told(own)
    assert kept == "True" and int(after) < int(before) / 20  # a page is zeroed by the system when it is first touched
    assert told(own | {"MALLOC_TRIM_THRESHOLD_": "100000"})[1] == "False"
