"""Files damaged in any way: each is read or listed with a reason, none stops a run, none costs a good file."""

from __future__ import annotations

import gzip
import io
import os
import re
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from doppelscan.images import ImageError, InputError, LoadSliced, SliceChoice, Windowd, find_images, read_pixels, read_volume
from doppelscan.workflows.embed import RecordDataset
from made_files import dicom
from made_volumes import write_enhanced, write_itk, write_nrrd, write_series
from monai.transforms import Compose
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

EXTENSIONS = (".png", ".jpg", ".tif", ".npy", ".nii", ".nii.gz", ".dcm", ".img", ".nrrd", ".mha", "")
EVERY_SLICE = SliceChoice(2, 0, 1, 1)


def _picture(**options) -> bytes:
    buffer = io.BytesIO()
    options.pop("pages", Image.fromarray(options.pop("pixels"))).save(buffer, **options)
    return buffer.getvalue()


def _nifti(volume: np.ndarray, kind: type = nib.Nifti1Image) -> bytes:
    image = kind(volume, np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header.set_slope_inter(2.0, 1.0)
    return image.to_bytes()


def _compressed(path: Path, syntax: str) -> bytes:
    data = dcmread(path)
    if syntax == JPEGBaseline8Bit:
        data.PixelData = encapsulate([_picture(pixels=(data.pixel_array // 200).astype(np.uint8), format="JPEG")])
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    else:
        data.compress(syntax)
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """A good file of every format that is read, by its extension and what is special in it."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    grey = rng.integers(1, 255, (24, 32), np.uint8)
    deep = grey.astype(np.uint16) * 200
    volume = rng.integers(0, 900, (12, 10, 9)).astype(np.int16)
    made = {
        "8bit.png": _picture(pixels=grey, format="PNG"),
        "16bit.png": _picture(pixels=deep, format="PNG"),
        "grey.jpg": _picture(pixels=grey, format="JPEG"),
        "colour.jpg": _picture(pixels=np.stack([grey] * 3, -1), format="JPEG", progressive=True),
        "8bit.tif": _picture(pixels=grey, format="TIFF"),
        "lzw.tif": _picture(pixels=deep, format="TIFF", compression="tiff_lzw"),
        "deflate.tif": _picture(pixels=deep, format="TIFF", compression="tiff_adobe_deflate"),
        "pages.tif": _picture(pixels=grey, format="TIFF", save_all=True, append_images=[Image.fromarray(grey)] * 3),
        "nifti.nii": _nifti(volume),
        "nifti2.nii": _nifti(volume.astype(np.float32), nib.Nifti2Image),
        "nifti.nii.gz": gzip.compress(_nifti(volume), mtime=0),
    }
    for name, array in (("float.npy", grey.astype(np.float32)), ("volume.npy", volume)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        made[name] = buffer.getvalue()
    path = Path(dicom(folder / "a.dcm", deep, "1.2.100000", 1, (0, 0, 0)))
    made["explicit.dcm"] = path.read_bytes()
    made["rle.dcm"] = _compressed(path, RLELossless)
    made["jpeg.dcm"] = _compressed(path, JPEGBaseline8Bit)
    implicit = dcmread(path)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    implicit.save_as(folder / "implicit.dcm", implicit_vr=True)
    made["implicit.dcm"] = (folder / "implicit.dcm").read_bytes()
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    for name, write, options in (
        ("raw.nrrd", write_nrrd, {"encoding": "raw"}),
        ("gzip.nrrd", write_nrrd, {"encoding": "gzip"}),
        ("bzip2.nrrd", write_nrrd, {"encoding": "bzip2"}),
        ("raw.mha", write_itk, {}),
        ("packed.mha", write_itk, {"compressed": True}),
    ):
        made[name] = Path(write(folder / name, volume, affine, **options)).read_bytes()
    made["enhanced.dcm"] = Path(write_enhanced(folder / "e.dcm", volume.astype(np.uint16), affine)).read_bytes()
    made["frames.dcm"] = Path(dicom(folder / "frames.dcm", np.stack([deep] * 4), "1.2.100000", frames=[])).read_bytes()
    return made


Random = np.random.Generator


def truncated(data: bytearray, rng: Random) -> bytearray:
    return data[: rng.integers(0, len(data))]


def header_bits_flipped(data: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.integers(1, 12)):
        data[rng.integers(0, min(len(data), 640))] ^= 1 << rng.integers(8)
    return data


def body_bits_flipped(data: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.integers(1, 40)):
        data[rng.integers(0, len(data))] ^= 1 << rng.integers(8)
    return data


def zeroed(data: bytearray, rng: Random) -> bytearray:
    start, length = rng.integers(0, len(data)), rng.integers(1, 400)
    data[start : start + length] = bytes(len(data[start : start + length]))
    return data


def swapped(data: bytearray, rng: Random) -> bytearray:
    a, b, c, d = sorted(rng.integers(0, len(data) + 1, 4).tolist())
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def junk_appended(data: bytearray, rng: Random) -> bytearray:
    return data + rng.bytes(rng.integers(1, 3000))


def huge_numbers(data: bytearray, rng: Random) -> bytearray:
    """Sizes, offsets and counts of headers become the largest or most negative that fit."""
    for _ in range(rng.integers(1, 5)):
        kind, value = [("H", 0xFFFF), ("H", 0x7FFF), ("I", 0x7FFFFFFF), ("I", 0xFFFFFFFF), ("I", 60000), ("q", 1 << 40)][
            rng.integers(6)
        ]
        place = int(rng.integers(0, max(min(len(data), 420) - 8, 1))) & ~1
        number = struct.pack(rng.choice(["<", ">"]) + kind, value)
        data[place : place + len(number)] = number
    return data


def not_a_number(data: bytearray, rng: Random) -> bytearray:
    """NaN and Inf in headers: as binary floats, and as the text of DICOM and NPY."""
    for _ in range(rng.integers(1, 5)):
        value = rng.choice([np.nan, np.inf, -np.inf, 1e38])
        place = int(rng.integers(0, max(min(len(data), 420) - 8, 1))) & ~3
        data[place : place + 4] = struct.pack("<f", value)
    digits = [i for i in range(0, len(data) - 3) if data[i : i + 3].isalnum() and data[i : i + 1].isdigit()]
    if digits:
        place = digits[rng.integers(len(digits))]
        data[place : place + 3] = b"NaN"
    return data


def absurd_dimensions(data: bytearray, rng: Random) -> bytearray:
    """What a format itself says of its size is made huge, so that the header is right in all but that."""
    side = int(rng.choice([30000, 32767, 65535]))
    if data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif data.startswith(b"\xff\xd8"):
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            if (at := data.find(marker)) > 0:
                data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif data.startswith(b"II*"):
        (ifd,) = struct.unpack("<I", data[4:8])
        for entry in range(ifd + 2, min(ifd + 2 + 12 * 4, len(data) - 12), 12):
            if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):
                data[entry + 8 : entry + 12] = struct.pack("<I", side)
    elif data.startswith(b"\x93NUMPY"):
        end = data.find(b"\n")
        words = re.sub(rb"\([^)]*\)", b"(%d, %d, %d)" % (side, side, side), data[10:end]).rstrip()
        data[10:end] = words.ljust(end - 10)[: end - 10]
    elif data[128:132] == b"DICM":
        for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
            if (at := data.find(tag)) > 0:
                data[at + 8 : at + 10] = struct.pack("<H", side)
    elif data.startswith(b"NRRD") or b"DimSize" in data[:600]:
        data = bytearray(re.sub(rb"(?m)^(sizes:|DimSize =)[^\n]*", rb"\g<1> %d %d %d" % (side, side, side), bytes(data)))
    elif data[344:347] == b"n+1":
        data[40:56] = struct.pack("<8h", 3, *[int(rng.choice([32767, 20000, -5, 0]))] * 3, 1, 1, 1, 1)
    elif data[4:7] == b"n+2":
        data[16:48] = struct.pack("<4q", 3, *[int(rng.choice([1 << 40, 1 << 20, -5, 0]))] * 3)
    return data


MUTATIONS: tuple[Callable[[bytearray, Random], bytearray], ...] = (
    truncated,
    header_bits_flipped,
    body_bits_flipped,
    zeroed,
    swapped,
    junk_appended,
    huge_numbers,
    not_a_number,
    absurd_dimensions,
)


def damaged(whole: dict[str, bytes], count: int, rng: Random) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of ``count`` files, each of a format and damaged by one or two mutations; a tenth with a wrong extension."""
    names = sorted(whole)
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(whole[name].replace(b"1.2.100000", b"1.2.%d" % (200000 + number)))
        inner = name.endswith(".gz") and rng.random() < 0.6  # a whole gzip file around a damaged one
        data = bytearray(gzip.decompress(data)) if inner else data
        for _ in range(rng.integers(1, 3)):
            if data:
                data = bytearray(MUTATIONS[rng.integers(len(MUTATIONS))](data, rng))
        data = bytearray(gzip.compress(bytes(data), mtime=0)) if inner else data
        stem, _, extension = name.partition(".")
        extension = EXTENSIONS[rng.integers(len(EXTENSIONS))] if rng.random() < 0.1 else f".{extension}"
        yield f"bad{number:05d}_{stem}{extension}", bytes(data)


def check_folder(folder: Path, whole: dict[str, bytes], count: int, seed: int, longest: float = 2.0) -> dict[str, int]:
    """``count`` damaged files and the good ones in ``folder``: list and read them all; how many were read and how many listed."""
    folder.mkdir()
    names = []
    for name, data in damaged(whole, count, np.random.default_rng(seed)):
        (folder / name).write_bytes(data)
        names.append(name)
    for name, data in whole.items():
        (folder / f"good_{name}").write_bytes(data.replace(b"1.2.100000", b"1.2.%d" % (100000 + len(name))))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    found = find_images(folder, slices=EVERY_SLICE)
    assert time.process_time() - started < longest + 0.05 * count
    assert len({record.id for record in found.records}) == len(found.records)
    reasons = {os.path.basename(s.path): s.reason for s in found.skipped}
    dataset = RecordDataset(found, Compose([LoadSliced("image"), Windowd("image")]))
    for index, record in enumerate(found.records):
        started = time.process_time()
        try:
            item = dataset.transform({"image": list(record.paths), "slice": record.slice, "axis": record.axis, "channel": None})
            assert np.isfinite(item["image"]).all()
        except Exception:
            error = RecordDataset._transform(dataset, index)["error"]  # raises what is no ImageError
            reasons[os.path.basename(record.id)] = error
        assert time.process_time() - started < longest, record.id
    for name, reason in reasons.items():
        assert reason and len(reason) <= 250 and reason.isprintable(), (name, reason)
        assert folder.name not in reason and name.split("#")[0] not in reason, (name, reason)
    listed = {name.split("#")[0] for name in reasons}
    read = {os.path.basename(p) for r in found.records if os.path.basename(r.id) not in reasons for p in r.paths}
    ignored = {n for n in names if n not in listed | read}
    assert len(ignored) <= found.ignored  # no image by its name nor by its content
    assert {f"good_{name}" for name in whole} <= read
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 500_000, f"{grown} KB"
    return {"read": len(read), "listed": len(listed), "ignored": len(ignored)}


@pytest.mark.filterwarnings("error")
def test_500_damaged_files_are_read_or_listed_and_cost_no_good_file(tmp_path, whole, capfd, caplog):
    counted = check_folder(tmp_path / "Jane_Doe", whole, 500, seed=15)
    assert counted["read"] > 100 and counted["listed"] > 200
    assert capfd.readouterr() == ("", "") and not caplog.records  # nor does a library write to the terminal


def check_whole(folder: Path, whole: dict[str, bytes], count: int, seed: int) -> dict[str, int]:
    """``count`` damaged volumes, each by itself, listed and read whole: all that comes of one is a volume or a reason."""
    folder.mkdir()
    volumes = {name: data for name, data in whole.items() if not name.endswith((".png", ".jpg")) and len(data) > 1500}
    counted = {"read": 0, "refused": 0, "images": 0}
    for name, data in damaged(volumes, count, np.random.default_rng(seed)):
        (folder / name).write_bytes(data)
        try:
            found = find_images(folder / name, volumes="whole")
            pixels = [read_volume(record, largest=8) for record in found.records if record.whole]
        except (ImageError, InputError) as error:
            reason = str(error).replace(str(folder / name), "").replace(name, "")
            assert reason.isprintable() and folder.name not in reason and len(reason) <= 400, reason
            counted["refused"] += 1
        else:
            assert all(np.isfinite(v.pixels).all() and v.pixels.max() > v.pixels.min() for v in pixels)
            assert all(r.geometry.shape and v.geometry.kind for r, v in zip(found.records, pixels, strict=False))
            counted["read" if pixels else "images"] += 1
        (folder / name).unlink()
    return counted


@pytest.mark.filterwarnings("error")
def test_300_damaged_volumes_are_read_whole_or_refused(tmp_path, whole, capfd, caplog):
    counted = check_whole(tmp_path / "Jane_Doe", whole, 300, seed=3)
    assert counted["read"] > 50 and counted["refused"] > 100
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_6000_damaged_volumes_are_read_whole_or_refused(tmp_path, whole):
    for seed in range(100, 120):
        check_whole(tmp_path / f"Jane_Doe{seed}", whole, 300, seed)


@pytest.mark.filterwarnings("error")
def test_damaged_files_of_a_series_that_is_read_whole_are_gaps_or_a_reason(tmp_path, whole):
    volume = np.random.default_rng(4).integers(1, 900, (12, 10, 14)).astype(np.uint16)
    files = [Path(p).read_bytes() for p in write_series(tmp_path / "whole", volume, np.diag([1.0, 1.0, 2.0, 1.0]))]
    read = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        for index, data in enumerate(files):
            mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
            (folder / f"{index}.dcm").write_bytes(mutate(bytearray(data), rng) if index == seed % 14 else data)
        try:
            for record in find_images(folder, volumes="whole").records:
                read += record.whole and read_volume(record).pixels.shape[:2] == (12, 10)
        except (ImageError, InputError) as error:
            assert str(error).replace(str(folder), "").isprintable()
    assert read > 15


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> tuple[np.ndarray, list[bytes]]:
    """Pixels [12, 16, 14] and files of a series of 12 slices."""
    volume = np.random.default_rng(1).integers(1, 4000, (12, 16, 14)).astype(np.uint16)
    path = tmp_path_factory.mktemp("series") / "a.dcm"
    return volume, [Path(dicom(path, p, "1.2.3", i, (0, 0, 2.0 * i))).read_bytes() for i, p in enumerate(volume)]


def check_series(folder: Path, series: tuple[np.ndarray, list[bytes]], rng: Random) -> None:
    """1 to 3 files of the series are damaged: the pixels of all others are read."""
    volume, files = series
    folder.mkdir()
    hurt = rng.choice(len(files), rng.integers(1, 4), replace=False).tolist()
    for index, data in enumerate(files):
        mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
        (folder / f"{index:02d}.dcm").write_bytes(mutate(bytearray(data), rng) if index in hurt else data)
    found = find_images(folder, slices=EVERY_SLICE)
    planes = set()
    for paths in {record.paths for record in found.records}:
        try:
            pixels = np.atleast_3d(read_pixels(paths))
        except ImageError:
            continue
        planes |= {np.sort(pixels[..., i], axis=None).tobytes() for i in range(pixels.shape[2])}
    assert len({record.id for record in found.records}) == len(found.records)
    for index in set(range(len(files))) - set(hurt):
        assert np.sort(volume[index].astype(np.float32), axis=None).tobytes() in planes, (index, hurt, found.skipped)


@pytest.mark.filterwarnings("error")
def test_damaged_files_of_a_dicom_series_cost_no_other(tmp_path, series):
    for seed in range(25):
        check_series(tmp_path / str(seed), series, np.random.default_rng(seed))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_damaged_files_of_1000_dicom_series_cost_no_other(tmp_path, series):
    for seed in range(1000, 2000):
        check_series(tmp_path / str(seed), series, np.random.default_rng(seed))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_10000_damaged_files_are_read_or_listed_and_cost_no_good_file(tmp_path, whole, capfd, caplog):
    for seed in range(20):
        check_folder(tmp_path / f"Jane_Doe{seed}", whole, 500, seed)
    assert capfd.readouterr() == ("", "") and not caplog.records
