"""Where results go, and what makes a run resumable.

    INPUT case.nii.gz   OUT folder  ->  OUT/case.nii.gz          OUT mask.nii.gz  ->  mask.nii.gz
                                        OUT/.vesalius/case.json  the fingerprint the mask was made with

A case is skipped only where its mask is there and input, weights and options hash the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.atomic import atomic, output_error
from ..core.errors import InputError, OutputError, unknown_name
from ..core.image import Image, Source
from ..io.files import Input, case_name, default_suffix, lost, peek, require_fit
from ..io.formats import FORMATS, OUTPUTS, WRITERS, format_of, output_of, suffix_of

LEDGER = ".vesalius"


@dataclass(frozen=True)
class Outputs:
    """The places of one run. `file` is set where OUT names the mask itself."""

    folder: Path
    file: Path | None = None
    format: str | None = None

    @staticmethod
    def of(out: str | Path, inputs: Sequence[Input], format: str | None) -> Outputs:
        """From what the user gave as OUT; raises OutputError where it does not fit the inputs, UnknownName for a format."""
        out = Path(out)
        if format is not None and format not in WRITERS:
            raise unknown_name("output format", format, WRITERS)
        try:
            suffix = None if out.is_dir() else suffix_of(out)
        except OSError as error:  # a name too long to ask for
            raise output_error(error, out) from error
        if out.is_file() and suffix is None:
            raise OutputError("a file stands where the output folder should be", file=out, fix="name a folder")
        if suffix is None:
            return Outputs(out, None, format)
        if len(inputs) > 1:
            raise OutputError(f"{len(inputs)} cases do not fit into one file", file=out, fix="name a folder")
        writes = output_of(suffix)
        if writes is None:
            raise OutputError(f"{suffix} cannot hold labels", file=out, fix=f"end it in one of {', '.join(WRITERS.values())}")
        if format not in (None, writes):
            raise OutputError(f"the name ends in {suffix}, the format is {format}", file=out, fix="leave out --format")
        return Outputs(out.parent, out, writes)

    def mask_path(self, image: Image) -> Path:
        """Where the mask of `image` goes; raises OutputError where that is the image itself, or cannot hold its mask."""
        suffix = WRITERS[self.format] if self.format else default_suffix(image)
        path = self.file or self.folder / f"{image.name}{suffix}"
        if image.source is not None and _same(path, image.source.path):
            raise OutputError("the mask would replace its own image", file=path, fix="name another output folder")
        if self.format:
            require_fit(self.format, image.grid, image.source, image.source.path if image.source else path)
        return path

    def lost(self, image: Image) -> tuple[str, ...]:
        """What the mask of `image` loses in the format asked for, as notes. An image of that format never knew more."""
        own = image.source is not None and image.source.format == self.format
        return () if own else lost(self.format, image.grid)

    def require_use(self, inputs: Sequence[Input], given: Path) -> None:
        """Raises OutputError for the folder of cases `given` itself, for DICOM in a folder within it, and for a place inside a
        DICOM folder that is read, where masks would be taken for more of them the next time; and where the format asked for
        can hold no mask of `inputs`, as far as their headers tell.
        """
        within = self.format == "dicom-seg" and self.folder.resolve().is_relative_to(given.resolve())
        if inputs != [given] and (_same(self.folder, given) or within):
            told = "masks among the images would be taken for images the next time"
            raise OutputError(told, file=self.folder, fix="name an output folder of its own, beside that of the images")
        for path in inputs:
            if isinstance(path, Path):
                self.require_beside(path)
        if self.format is None or FORMATS[OUTPUTS[self.format]].fit is None:
            return
        problems = []
        for path in inputs:
            first = path[0] if isinstance(path, tuple) else path
            try:
                grid = peek(path).grid
            except InputError:  # to be told in its turn
                return
            try:
                require_fit(self.format, grid, Source(first, format_of(first), case_name(path)), first)
                return
            except OutputError as problem:
                problems.append(problem)
        if problems:
            all_of_them = f"; so it is with all {len(problems)} cases" if problems[1:] else ""
            raise OutputError(problems[0].problem + all_of_them, file=problems[0].file, fix=problems[0].fix)

    def require_beside(self, image: Path) -> None:
        """Raises OutputError for a place inside an image that is a folder, which would be taken for a part of it."""
        if image.is_dir() and self.folder.resolve().is_relative_to(image.resolve()):
            told = f"this lies inside the folder that is read, {image}, and would be taken for a part of it"
            raise OutputError(told, file=self.folder, fix="name an output folder beside it")

    def probabilities(self, image: Image) -> Path:
        """Where probabilities go: a folder of their own, so that a folder of masks holds masks only."""
        suffix = ".npz" if image.grid.affine is None or image.grid.dims == 2 else ".nii.gz"
        return self.folder / "probabilities" / f"{image.name if self.file is None else case_name(self.file)}{suffix}"

    def beside(self, name: str) -> Path:
        """Where something that is no mask goes: in the folder, or under the mask file's own stem."""
        return self.folder / name if self.file is None else self.folder / f"{case_name(self.file)}.{name}"

    def ledger(self, case: str) -> Path:
        return self.folder / LEDGER / f"{case if self.file is None else self.file.name}.json"

    def picture(self, case: str) -> Path:
        """Where the overlay of a case waits for the report."""
        return self.ledger(case).with_name(self.ledger(case).name.removesuffix(".json") + ".png")

    def overlay(self, case: str) -> Path:
        """Where the overlay goes that the user asked for."""
        return self.beside("overlays") / f"{case}.png"

    def prepare(self) -> None:
        """Make the folder; raises OutputError where that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(error, self.folder) from error

    def vacate(self) -> None:
        """Take away the folder where nothing was written into it."""
        for folder in [*sorted((each for each in self.folder.rglob("*") if each.is_dir()), reverse=True), self.folder]:
            try:
                folder.rmdir()
            except OSError:  # it holds something
                return

    def recall(self, case: str, fingerprint: str) -> dict[str, Any] | None:
        """What was noted about `case`, if its mask is still there and was made with the same `fingerprint`."""
        try:
            noted = json.loads(self.ledger(case).read_text(encoding="utf-8"))
            mask = self.folder / noted["mask"]
            return noted if noted["fingerprint"] == fingerprint and mask.stat().st_size == noted["bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, case: str, fingerprint: str, mask: Path, result: dict[str, Any]) -> None:
        """Remember that `mask` was made with `fingerprint`."""
        self._note(case, {"fingerprint": fingerprint, "mask": mask.name, "bytes": mask.stat().st_size, "result": result})

    def begin(self, case: str, fingerprint: str) -> None:
        """Before a mask is written: should the process be killed ahead of `note`, the mask is known as its own."""
        self._note(case, {"fingerprint": fingerprint})

    def begun(self, case: str, fingerprint: str) -> bool:
        """Whether a process was killed between `begin` and `note` of this very work."""
        try:
            return bool(json.loads(self.ledger(case).read_text(encoding="utf-8")) == {"fingerprint": fingerprint})
        except (OSError, ValueError):
            return False

    def _note(self, case: str, record: dict[str, Any]) -> None:
        with atomic(self.ledger(case)) as part:
            part.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def forget(self, case: str) -> None:
        """Before a mask is replaced: should the run break, nothing may vouch for the old one, nor show it as the new."""
        for path in (self.ledger(case), self.picture(case), self.overlay(case)):
            path.unlink(missing_ok=True)


def fingerprint(*parts: Any) -> str:
    """sha256 over `parts` as JSON; two runs agree where inputs, weights and options do."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def parse_size(text: str | int) -> int:
    """Bytes in '1.5GB', '800 MB' or a plain number; raises InputError."""
    units = {"": 1.0, "B": 1.0}
    for i, letter in enumerate("KMG", 1):
        units |= {letter: 1e3**i, f"{letter}B": 1e3**i, f"{letter}IB": 1024.0**i}
    compact = str(text).replace(" ", "").upper()
    number = compact.rstrip("BKMGI")
    try:
        size = int(float(number) * units[compact[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        raise InputError(f"'{text}' is no amount of memory", fix="write it as 1.5GB or 800MB") from None
    if size <= 0:
        raise InputError(f"'{text}' is no amount of memory", fix="write it as 1.5GB or 800MB")
    return size


def _same(a: Path, b: Path) -> bool:
    return os.path.abspath(a) == os.path.abspath(b) or (a.exists() and b.exists() and os.path.samefile(a, b))
