"""DICOM files that are pictures, each a case of its own: X-rays, and whatever else is one frame without a place among others.

    CT, MR, PET, nuclear medicine   slices of a series, always: they form a volume or are refused
    any other, one frame            a picture where it says no position, as an X-ray does; an X-ray that says one is a
                                    picture where it is alone in its series (of several, tomosynthesis makes a volume)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from .decoding import decoding
from .dicom import NO_IMAGES, STACKED, open_dicom

PROJECTIONS = {"CR", "DX", "MG", "RG", "RF", "XA", "IO", "PX", "DR", "XR"}  # DR and XR: no defined terms, but met
TAGS = ["Modality", "SeriesInstanceUID", "NumberOfFrames", "ImagePositionPatient", "PerFrameFunctionalGroupsSequence"]


def pictures_among(files: Sequence[Path]) -> list[Path]:
    """The pictures among loose DICOM files where no slice of a series is among them; else none: they are one case.

    Objects that are no images, such as reports, are passed over. A file that cannot be read counts as what the others are,
    so that it fails as a case of its own.
    """
    found: list[tuple[Path, Any]] = []
    for file in files:
        try:
            with decoding(file, "DICOM"):
                header = open_dicom(file, stop_before_pixels=True, specific_tags=TAGS)
        except InputError:
            header = None
        if header is not None and header.get("Modality") in STACKED:
            return []
        if header is None or header.get("Modality") not in NO_IMAGES:
            found.append((file, header))
    series = Counter(str(header.get("SeriesInstanceUID")) for _, header in found if header is not None)
    known = [is_picture(header, series[str(header.get("SeriesInstanceUID"))] == 1) for _, header in found if header is not None]
    return [file for file, _ in found] if known and all(known) else []


def is_picture(header: Any, alone: bool) -> bool:
    """Whether one image is a picture; `alone`: no other file is of its series."""
    modality = header.get("Modality")
    several = int(header.get("NumberOfFrames") or 1) > 1 or bool(header.get("PerFrameFunctionalGroupsSequence"))
    if several or not modality or modality in STACKED:
        return False
    return not header.get("ImagePositionPatient") or (modality in PROJECTIONS and alone)
