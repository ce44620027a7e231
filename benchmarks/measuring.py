"""What the benchmarks measure with: rounds that alternate, processes of their own for memory, and what the machine is.

Imported by the scripts beside it; run by itself it does nothing.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent


def alternating(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Each side once a round, so that noise hits all alike: medians of seconds by the clock and of processor seconds."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            began, busy = time.perf_counter(), time.process_time()
            call()
            spent[name].append((time.perf_counter() - began, time.process_time() - busy))
    return {
        name: {"seconds": round(median(s for s, _ in each), 4), "cpu_seconds": round(median(c for _, c in each), 4)}
        for name, each in spent.items()
    }


def times(found: dict[str, dict[str, float]], slow: str, quick: str) -> dict[str, float]:
    """How many times as long `slow` took; where other work shares the machine, the processor's figure is the one to trust."""
    return {
        "by_the_clock": round(found[slow]["seconds"] / found[quick]["seconds"], 2),
        "of_the_processor": round(found[slow]["cpu_seconds"] / found[quick]["cpu_seconds"], 2),
    }


def apart(script: str, *words: str) -> dict[str, Any]:
    """One measurement in a process of its own: `script --measure words`, whose last line is JSON."""
    command = [sys.executable, str(Path(script).resolve()), "--measure", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    return json.loads(done.stdout.splitlines()[-1])


def reset_peak() -> int:
    """Set the kernel's high-water mark back; bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(key: str) -> int:
    """VmRSS or VmHWM of this process, bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def machine() -> dict[str, Any]:
    """What it ran on, and what else ran there."""
    import torch

    from vesalius.pipeline.tiled import use_bf16

    chosen = "bf16" if use_bf16("auto", torch.device("cpu")) else "fp32"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return {
        "processor": name,
        "amx": amx,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "auto": chosen,
    }


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """A table on stderr, a row a line, so that stdout stays JSON."""
    print(title, file=sys.stderr)
    for name, row in rows.items():
        print(f"    {name:34}" + "  ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
