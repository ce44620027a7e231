"""What a run tells while it goes: a line of metrics.jsonl an epoch, TensorBoard, and a bar on the terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..core.atomic import atomic


class Journal:
    """Writes to the run folder `run`; a resumed run drops the lines after the step it goes on from."""

    def __init__(self, run: Path, *, step: int = 0):
        self.path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(run) if line["step"] <= step and not line.get("final")]
        with atomic(self.path) as part:  # killed here, nothing of the lines before is lost
            part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # 1 s to import

        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step or None)

    def write(self, line: dict[str, Any]) -> None:
        """One epoch, on disk when this returns."""
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        for key, value in line.items():
            if isinstance(value, float):
                self.board.add_scalar(key, value, line["step"])
        self.board.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that was cut off by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Bar:
    """Loss, validation Dice and time left, on one line; silent where `quiet`."""

    def __init__(self, *, quiet: bool):
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(30),
            TextColumn("loss {task.fields[loss]}  Dice {task.fields[dice]}"),
            TextColumn("{task.fields[left]} left"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, disable=quiet, refresh_per_second=2)
        self.task = self.progress.add_task("train", total=1.0, epoch=0, loss="-", dice="-", left="?")

    def show(self, done: float, elapsed: float, **fields: Any) -> None:
        """`done` in 0..1 after `elapsed` seconds; fields epoch, loss, dice."""
        left = elapsed * (1 - done) / max(done, 1e-6)
        self.progress.update(self.task, completed=done, left=f"{int(left // 60)}:{int(left % 60):02d}", **fields)

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
