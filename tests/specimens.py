"""Tiny images, masks, series and weights, made on the spot: what a test feeds the command line with."""

from pathlib import Path

import numpy as np
import torch

from vesalius.core.labels import Label, Labels


def save_tiny(path: Path, *, dims: int, channels: tuple[str, ...], steps: tuple) -> Path:
    """A weights file of the smallest U-Net, untrained, with its task inside: what every RUN holds."""
    from vesalius.models.catalog import build
    from vesalius.models.weights import save
    from vesalius.pipeline.predictor import TASK_KEY
    from vesalius.tasks.task import Inference, ModelSpec, Task

    config = {"in_channels": len(channels), "classes": 3, "dims": dims, "widths": [4, 8]}
    task = Task(
        name="tiny",
        title="two structures, guessed",
        dims=dims,
        channels=channels,
        labels=Labels((Label(1, "first"), Label(2, "second"))),
        steps=steps,
        model=ModelSpec(name="unet", config=config),
        inference=Inference(patch=(1, 32, 32) if dims == 2 else (16, 16, 16)),
    )
    torch.manual_seed(0)
    return save(path, build("unet", config), {TASK_KEY: task.model_dump_json()})


def picture(path: Path, size=(40, 36), mode="RGB", seed=0) -> Path:
    """A picture of noise around a bright disk."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.ogrid[: size[0], : size[1]]
    disk = 120 * ((y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (min(size) / 4) ** 2)
    grey = (disk + np.random.default_rng(seed).integers(20, 120, size)).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(path)
    return path


def volume(path: Path, size=(20, 18, 16), dtype=np.int16, spacing_mm=(1.0, 1.0, 1.5), values=None, seed=0) -> Path:
    """A NIfTI volume (X, Y, Z) of noise, or of `values`."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 900, size).astype(dtype) if values is None else values.astype(dtype)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0])), path)
    return path


def mask_volume(path: Path, size=(20, 18, 16), values=(1, 2), spacing_mm=(1.0, 1.0, 1.5)) -> Path:
    """A NIfTI label map with a block for each of `values`."""
    voxels = np.zeros(size)
    for i, value in enumerate(values):
        voxels[2 + 5 * i : 6 + 5 * i, 3:12, 4:12] = value
    return volume(path, size, np.uint8, spacing_mm, voxels)


def moving_block(count: int) -> list:
    """Frames (30, 40, 3) uint8: a bright block of 12 x 10 px that goes 1 px to the right a frame, from x = 4 on, at y = 8."""
    frames = []
    for i in range(count):
        frame = np.full((30, 40, 3), 30, np.uint8)
        frame[8:18, 4 + i : 16 + i] = 220
        frames.append(frame)
    return frames


def video(path: Path, frames: list, *, codec="ffv1", times=None, gop=12, b_frames=0) -> Path:
    """Frames (Y, X, 3) uint8 as a video; ffv1 (in .mkv or .mov) keeps every value of grey. `times` in ms, 100 ms a frame."""
    from fractions import Fraction

    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = {"ffv1": "bgr0", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def save_tiny_sam(path: Path, text: int = 0) -> Path:
    """An untrained promptable model, as `vesalius models import` writes one; `text` is the width of the words that it knows."""
    import torch

    from vesalius.models.checkpoints import Imported
    from vesalius.models.sam.frame import Frame
    from vesalius.models.sam.image_encoder import ViTConfig
    from vesalius.models.sam.sam import SAM, SAMConfig

    torch.manual_seed(0)
    encoder = ViTConfig(image_size=64, width=24, depth=2, heads=2, global_blocks=(1,), window=3, channels=16)
    network = SAM(SAMConfig(encoder, mask_channels=8, decoder_heads=2, decoder_mlp=24, iou_width=12, text=text))
    Imported("sam", network, Frame(64), None, 0, ()).write(path, "none.pth")
    return path


def tiny_clip(folder: Path, width: int = 10) -> Path:
    """An untrained CLIP text encoder that knows two words, as transformers saves one; its embeddings are `width` numbers."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "<unknown>": 3, "nucleus": 4, "polyp": 5}, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=8
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=6,
        hidden_size=8,
        intermediate_size=8,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        eos_token_id=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def dicom_series(folder: Path, slices=4, size=(16, 18), series=None, start_mm=0.0) -> Path:
    """A CT series, its files named at random against its order."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = series or generate_uid(), generate_uid(), generate_uid()
    rng = np.random.default_rng(0)
    for i in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = pydicom.Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.Modality, one.PatientID, one.PatientName, one.InstanceNumber = "CT", "p1", "Nobody", i + 1
        one.PatientBirthDate = one.PatientSex = one.StudyDate = one.StudyTime = one.StudyID = one.AccessionNumber = ""
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0.0, 0.0, start_mm + 2.0 * i]
        one.PixelSpacing, one.SliceThickness = [1.0, 1.0], 2.0
        one.Rows, one.Columns, one.SamplesPerPixel = *size, 1
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.PhotometricInterpretation, one.RescaleSlope, one.RescaleIntercept = "MONOCHROME2", 1, -1024
        one.PixelData = rng.integers(0, 2000, size).astype(np.int16).tobytes()
        one.save_as(folder / f"{(7 * i + 3) % 11:02d}_{series[-4:]}.dcm", enforce_file_format=True)
    return folder
