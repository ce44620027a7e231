"""What a promptable model learns from, and what it is shown and asked: the part of a recipe that other models have no use for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from .record import Range, Record


class Source(Record):
    """One data set that a promptable model learns from, or one that is made up; its name is its folder's.

    share      how often a sample comes from it, beside the others' shares; 0 leaves it out
    objects    "components" of every label value, which serves numbered objects too; all labels "joined"; "both"
    pairs      image and mask files below the folder, where it is laid out as no data set
    patient    what of a case's name tells the patient (a regular expression), where no cases.csv does
    without    cases that are neither trained on nor looked at: those that are shown to others as never seen
    window     of CT, in HU; others as every image in use: 8 bits as they are, else by percentiles
    made       "shapes": drawn, on drawn backgrounds; "superpixels": patches of like grey in the other sources' pictures
    """

    share: float = Field(1.0, ge=0)
    objects: Literal["components", "joined", "both"] = "components"
    pairs: tuple[tuple[str, str], ...] = ()
    patient: str | None = None
    without: tuple[str, ...] = ()
    window: Range | None = None
    slices: PositiveInt = 12  # of a volume, along each axis
    made: Literal["shapes", "superpixels"] | None = None
    licence: str = "not stated"
    research_only: bool = False


class Prompting(Record):
    """What a promptable model is shown and asked. Shares of what is said first: a click, an earlier mask, both box and mask (of
    pictures alone); the rest are boxes, of volumes boxes and sections. Spreads are a view's side over the object's longer one."""

    size: PositiveInt = 128  # side of the views
    large: NonNegativeInt = 0  # side of those around a box or mask that hold more pixels than `size` (pictures alone)
    click: float = Field(0.22, ge=0, le=1)
    mask: float = Field(0.07, ge=0, le=1)
    box_and_mask: float = Field(0.08, ge=0, le=1)
    spread: Range = (1.1, 2.4)
    wide: float = Field(6.0, gt=1)  # spread up to which `wide_p` of the views go, and of clicks all
    wide_p: float = Field(0.12, ge=0, le=1)
    as_stored: float = Field(0.4, ge=0, le=1)  # of the views; the others are turned and retoned
    turn_p: float = Field(0.35, ge=0, le=1)
    half_p: float = Field(0.15, ge=0, le=1)  # views shown at half the size, a quarter of the time, beside those that are in use
    rounds: PositiveInt = 3  # answers a sample, at most; each after the first builds on the one before
    least_area_px: PositiveInt = 16


# Of vesalius_mini: folders as docs/models/vesalius_mini.md lists them, licences as their sources state them. Shares are ours:
# what the figures are asked of comes most often, what is small or alike less. What `make demo` shows is left out.
MINI_SOURCES: dict[str, Source] = {
    "kvasir_seg": Source(share=3.0, licence="research and educational use only (Simula)", research_only=True),
    "dsb2018": Source(share=2.5, without=("7f55678298adb736", "e52960d31f8bddf8"), licence="CC0"),
    "glas": Source(share=1.2, licence="research use, cite Sirinukunwattana et al. 2017", research_only=True),
    "cpm15": Source(share=1.2, licence="challenge data, research use", research_only=True),
    "isbi2012": Source(share=0.6, licence="free for research, cite Arganda-Carreras et al. 2015", research_only=True),
    "hippocampus": Source(share=2.0, objects="both", without=("hippocampus_014",), licence="CC BY-SA 4.0"),
    "ct_lesion": Source(share=0.3, licence="Apache-2.0; DeepLesion (NIH, open)"),
    "pelvic_fracture": Source(
        share=0.6, objects="both", patient=r"^(\d+)_", licence="MIT; full set CC BY-NC-SA", research_only=True
    ),
    "ct_torso": Source(share=1.0, pairs=(("ct.nii.gz", "labels.nii.gz"),), window=(-160, 240), slices=40, licence="Apache-2.0"),
    "brats_four": Source(
        share=0.5,
        pairs=tuple(
            (f"TCGA-FG-6692/TCGA-FG-6692_{kind}.nii.gz", "TCGA-FG-6692/TCGA-FG-6692_seg-consensus.nii.gz")
            for kind in ("t1", "t1c", "t2", "flair")
        ),
        objects="both",
        slices=24,
        licence="Apache-2.0; TCGA-LGG by TCIA (CC BY)",
    ),
    "shapes": Source(share=1.0, made="shapes", licence="ours"),
    "superpixels": Source(share=1.0, made="superpixels", licence="that of the other sources' pictures"),
}

# Of vesalius_mini_3d: the volumes among them, and bodies that are drawn; half of what it sees is what its figures are asked of.
SOLID_SHARES = {"hippocampus": 5.0, "ct_torso": 1.5, "shapes": 1.5, "pelvic_fracture": 0.8, "brats_four": 0.5, "ct_lesion": 0.2}
SOLID_SOURCES: dict[str, Source] = {
    name: each.model_copy(update={"share": SOLID_SHARES.get(name, 0.0)}) for name, each in MINI_SOURCES.items()
}
