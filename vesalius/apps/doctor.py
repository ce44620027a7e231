"""Is this machine fit, and is the installation whole? Each check names its own cure.

`examine` looks at what the machine has, `verify_weights` at what the package ships, `self_test` walks
the hallway once on a picture it draws. None of them changes anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).parents[1]
EXTRAS = {
    "train": ("accelerate", "monai", "batchgeneratorsv2", "tensorboard", "matplotlib"),
    "jpeg": ("libjpeg",),
    "itk": ("SimpleITK",),
    "video": ("av",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}
GOOD_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
LEAST_RAM_GB = 2.0  # importing torch and one tile of the shipped models take 0.7 GB
LEAST_DISK_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One finding. `state` 'absent' is no fault: something optional is not there."""

    name: str
    state: Literal["ok", "absent", "broken"]
    found: str
    fix: str | None = None


def examine(folder: Path | None = None) -> Iterator[Check]:
    """Python, libraries, processor, memory, disk (where `folder` lies), GPU and extras."""
    here = platform.python_version()
    old = None if sys.version_info >= (3, 11) else "install Python 3.11 or later"
    yield Check("python", "broken" if old else "ok", here, old)
    for library in ("vesalius", "torch", "numpy", "nibabel", "pydicom", "highdicom"):
        yield installed(library)
    name, flags = processor()
    fast = [flag for flag in GOOD_FLAGS if flag in flags]
    bf16 = "bf16 is fast" if {"avx512_bf16", "amx_bf16", "bf16"} & set(fast) else "no bf16: --precision auto computes in fp32"
    cores = f"{usable_cores()} of {os.cpu_count()} cores"
    yield Check("processor", "ok", f"{name}; {cores}; {' '.join(fast) or 'no known flags'}; {bf16}")
    total, free = memory_gb()
    if total is None or free is None:
        yield Check("memory", "absent", "this system does not tell")
    else:
        short = "close other programs, or lower --max-ram" if free < LEAST_RAM_GB else None
        yield Check("memory", "broken" if short else "ok", f"{free:.1f} GB free of {total:.1f} GB", short)
    disk = shutil.disk_usage(folder or Path.cwd()).free / 1e9
    cramped = "free some space before a long run" if disk < LEAST_DISK_GB else None
    yield Check("disk", "broken" if cramped else "ok", f"{disk:.1f} GB free in {folder or Path.cwd()}", cramped)
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            yield Check(f"extra {extra}", "absent", f"{', '.join(missing)} not installed", f"pip install 'vesalius[{extra}]'")
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(modules))


def installed(library: str) -> Check:
    """The version of an installed library, without importing it."""
    try:
        return Check(library, "ok", version(library))
    except PackageNotFoundError:
        return Check(library, "broken", "not installed", "pip install --force-reinstall vesalius")


def processor() -> tuple[str, set[str]]:
    """The processor's name and its flags, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), set()
    name, flags = platform.machine(), set()
    for line in info.read_text(errors="replace").splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            name = value
        elif key in ("flags", "Features"):
            flags = set(value.split())
    return name, flags


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> tuple[float | None, float | None]:
    """Physical memory in GB, all of it and what is free for a new process; None where the system does not tell."""
    info = Path("/proc/meminfo")
    if info.exists():
        fields = dict(line.split(":") for line in info.read_text().splitlines() if ":" in line)
        return tuple(int(fields[key].split()[0]) * 1024 / 1e9 for key in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = os.sysconf("SC_PHYS_PAGES") * page / 1e9
        return total, total
    except (AttributeError, OSError, ValueError):
        return None, None


def examine_all(device: str) -> Iterator[Check]:
    """Every check there is, the quick ones first."""
    yield from examine()
    yield compute_device(device)
    yield from verify_weights()
    yield from self_test(device)


def verify_weights() -> Iterator[Check]:
    """Every weights file that the tasks name is in the package and has the hash they expect."""
    from ..tasks.catalog import TASKS

    for name, task in sorted(TASKS.items()):
        if task.weights is None:
            yield Check(f"weights {name}", "absent", "this task ships none", f"vesalius train DATASET -o RUN --task {name}")
            continue
        file = PACKAGE / "weights" / task.weights.file
        if not file.is_file():
            yield Check(f"weights {name}", "broken", f"{file} is missing", "pip install --force-reinstall vesalius")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != task.weights.sha256:
            yield Check(f"weights {name}", "broken", f"{file} was altered", "pip install --force-reinstall vesalius")
        else:
            size_mb = file.stat().st_size / 1e6
            yield Check(f"weights {name}", "ok", f"{size_mb:.1f} MB, hash {task.weights.sha256[:12]}, {task.weights.licence}")


def compute_device(name: str) -> Check:
    """The device that `--device NAME` comes to."""
    from ..pipeline.predictor import choose_device

    return Check("device", "ok", f"{name} is {choose_device(name)}")


def self_test(device: str) -> Iterator[Check]:
    """Segment one drawn example for each shipped task, from file to file, and look whether the mask lies on the image's grid."""
    from ..core.errors import InputError
    from ..tasks.catalog import TASKS

    for name, task in sorted(TASKS.items()):
        if task.weights is None:
            continue
        with tempfile.TemporaryDirectory(prefix="vesalius-doctor-") as folder:
            start = time.perf_counter()
            try:
                found = walk(Path(folder), name, task.dims, device)
            except InputError as error:
                yield Check(f"self-test {name}", "broken", str(error), "reinstall, or report it")
            else:
                yield Check(f"self-test {name}", "ok", f"{found} in {time.perf_counter() - start:.1f} s")


def walk(folder: Path, task: str | None, dims: int, device: str, weights: Path | None = None) -> str:
    """Write a bright ball on dark ground, segment it, read the mask back; says what was found in it."""
    import numpy as np

    size = (1, 96, 96) if dims == 2 else (40, 40, 40)
    z, y, x = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in size)]
    ball = (z**2 + y**2 + x**2 < 12**2).astype(np.uint8)
    picture = 40 + 150 * ball + np.random.default_rng(0).integers(0, 20, size, dtype=np.uint8)
    if dims == 2:
        from PIL import Image as Picture

        file = folder / "ball.png"
        Picture.fromarray(picture[0]).save(file)
    else:
        import nibabel

        file = folder / "ball.nii.gz"
        nibabel.save(nibabel.Nifti1Image(picture.T, np.eye(4)), file)
    return measured(file, folder / "out", task, device, weights)


def measured(file: Path, out: Path, task: str | None, device: str, weights: Path | None) -> str:
    """Segment `file` as the command does, and compare the mask's grid with the image's."""
    from ..core.errors import GeometryError
    from ..io.files import read, read_mask
    from ..pipeline.segment import segment

    segment(file, out, task=task, weights=weights, device=device)
    image = read(file)
    (path,) = [each for each in out.iterdir() if each.name.startswith("ball.")]
    mask = read_mask(path)
    if not mask.grid.same_as(image.grid):
        raise GeometryError("the mask does not lie on the grid of its image", file=path)
    return f"{int((mask.array > 0).sum())} voxels of {mask.array.size} found, on the grid of the image"
