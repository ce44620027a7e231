"""DICOM series made on the spot."""

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "CR": "1.2.840.10008.5.1.4.1.1.1",
           "US": "1.2.840.10008.5.1.4.1.1.6.1", "SR": "1.2.840.10008.5.1.4.1.1.88.11"}  # fmt: skip
ROW, COLUMN = np.array([0.9, 0.1, 0.0]), np.array([0.0, 0.3, -0.9])
ROW = ROW / np.linalg.norm(ROW)
COLUMN = np.cross(np.cross(ROW, COLUMN), ROW)
COLUMN = COLUMN / np.linalg.norm(COLUMN)
NORMAL = np.cross(ROW, COLUMN)


class Series:
    """Slices of one series with UIDs of their own; `slice` returns a dataset to change, `save` puts it down."""

    def __init__(self, modality="CT"):
        self.modality, self.uid, self.study, self.frame = modality, generate_uid(), generate_uid(), generate_uid()

    def slice(self, pixels, along_mm=0.0, **fields):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = CLASSES[self.modality], generate_uid()
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
        one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID = self.uid, self.study, self.frame
        one.Modality, one.SeriesDescription, one.ImageType = self.modality, "thin", ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "SECRET^NAME", "SECRET-ID", "19700101", "O"
        one.StudyID, one.StudyDate, one.StudyTime, one.AccessionNumber = "1", "20200101", "120000", "SECRET-ACC"
        one.SeriesNumber, one.InstanceNumber, one.ReferringPhysicianName = 3, 1, ""
        one.Rows, one.Columns = pixels.shape[:2]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = pixels.dtype.itemsize * 8
        one.HighBit, one.PixelRepresentation = one.BitsStored - 1, int(pixels.dtype.kind == "i")
        one.PixelSpacing, one.SliceThickness = [0.5, 0.75], 99.0  # a thickness that nobody may believe
        one.ImageOrientationPatient = [*ROW, *COLUMN]
        one.ImagePositionPatient = list(np.array([-20.0, 10.0, 30.0]) + along_mm * NORMAL)
        if self.modality == "CT":
            one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -1024, "HU"
        one.PixelData = pixels.tobytes()
        for name, value in fields.items():
            setattr(one, name, value)
        return one

    def stack(self, folder, positions_mm, size=(6, 7), dtype=np.uint16, **fields):
        """One file a position, named against the order; returns the stored values in the order of the positions."""
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).integers(0, 2000, (len(positions_mm), *size)).astype(dtype)
        for i, (pixels, along) in enumerate(zip(values, positions_mm, strict=True)):
            save(self.slice(pixels, along, InstanceNumber=len(values) - i, **fields), folder / f"IM{(i * 7) % 11:04d}-{i}")
        return values

    def enhanced(self, values, heights_mm, **transformation):
        """One multi-frame object of `values` (Z, Y, X), whose frames say one by one where they lie, in any order."""
        one = self.slice(values[0])
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        place, orientation, spacing = one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing
        for field in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
                      "RescaleIntercept", "RescaleType"):  # fmt: skip
            delattr(one, field)
        shared = item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=orientation)],
            PixelMeasuresSequence=[item(PixelSpacing=spacing, SliceThickness=99.0)],
        )
        if transformation:
            shared.PixelValueTransformationSequence = [item(**transformation)]
        one.SharedFunctionalGroupsSequence = [shared]
        one.PerFrameFunctionalGroupsSequence = [
            item(PlanePositionSequence=[item(ImagePositionPatient=list(np.array(place) + h * NORMAL))]) for h in heights_mm
        ]
        one.NumberOfFrames, one.PixelData = len(values), values.tobytes()
        return one


def item(**fields):
    """A dataset of these fields alone, for a sequence."""
    made = Dataset()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def save(dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return path
