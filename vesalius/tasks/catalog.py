"""Every task by name: one literal dict."""

from __future__ import annotations

from .hippocampus import HIPPOCAMPUS
from .nuclei import NUCLEI
from .task import Task

TASKS: dict[str, Task] = {
    "hippocampus": HIPPOCAMPUS,
    "nuclei": NUCLEI,
}
