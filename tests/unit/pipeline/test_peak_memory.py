"""Fourteen classes leave in slabs: what a process really holds, measured in one of its own.

The network is arithmetic alone, so that what is measured is the pipeline's memory and not the convolution library's.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHAPE, CLASSES = (256, 160, 160), 14
ALL_SCORES = 4 * CLASSES * SHAPE[0] * SHAPE[1] * SHAPE[2]  # 367 MB: what streaming never holds
ALLOWED = {"same": 110_000_000, "coarse": 150_000_000}  # --max-ram; the second way resamples, and back

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
from vesalius.core.image import Grid, Image
from vesalius.core.labels import Label, Labels
from vesalius.models.contract import Outputs
from vesalius.pipeline.predictor import Predictor
from vesalius.pipeline.segment import SegmentOptions, segment_image
from vesalius.tasks.task import Inference, ModelSpec, Task
from vesalius.transforms.spatial import Resample

shape, classes, allowed = json.loads(sys.argv[1])
class Levels(torch.nn.Module):
    dims = 3

    def forward(self, x):
        return Outputs(x * torch.linspace(-1, 1, classes).view(1, -1, 1, 1, 1))

model = Levels().eval()

def run(shape, steps=(), **options):
    array = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    labels = Labels(tuple(Label(k, f"structure {k}") for k in range(1, classes)))
    task = Task(name="t", title="t", dims=3, channels=("any",), labels=labels, steps=steps,
                model=ModelSpec(name="unet", config={"dims": 3, "in_channels": 1, "classes": classes}),
                inference=Inference(patch=(32, 32, 32), overlap=0.0))
    predictor = Predictor(task, (model,), "", torch.device("cpu"), "fp32")
    return segment_image(Image(array, Grid(shape, np.eye(4))), predictor, SegmentOptions(**options)).mask.array

def kept(key):
    return 1024 * int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])

ways = {"free": {}, "same": {"max_ram": allowed["same"]},
        "coarse": {"max_ram": allowed["coarse"], "steps": (Resample(spacing_mm=(2.0, 2.0, 2.0)),)}}
name = sys.argv[2]
run((32, 32, 32), **ways[name])  # modules are imported and kernels chosen on the first call
Path("/proc/self/clear_refs").write_text("5")
before = kept("VmRSS")
mask = run(shape, **ways[name])
print(json.dumps({"peak": kept("VmHWM") - before, "labels": len(np.unique(mask)), "shape": mask.shape}))
"""


def held(way):
    """Bytes held at most beyond imports and weights, the image included."""
    words = [sys.executable, "-c", PROGRAM, json.dumps([SHAPE, CLASSES, ALLOWED]), way]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shape"] == list(SHAPE) and found["labels"] > 1
    return found["peak"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("way", ["free", "same", "coarse"])
def test_fourteen_classes_are_never_held_whole(way):
    peak = held(way)
    # without a limit the heap scatters between 150 and 227 MB (20 runs); with every slab held it is 446 MB or more
    assert peak <= ALLOWED.get(way, 0.8 * ALL_SCORES), f"{peak / 1e6:.0f} MB"
