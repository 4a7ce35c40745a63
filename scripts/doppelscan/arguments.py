"""What a user may pass: kinds of values with what they must be in words, checked before anything that takes long is loaded."""

from __future__ import annotations

import ast
import ctypes
import difflib
import importlib.util
import inspect
import os
import platform
import re
import runpy
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from doppelscan.errors import InputError
from doppelscan.locations import is_url

__all__ = ["Must", "alike", "check_fields", "checked", "choices_of", "meant", "parameters", "short_of", "words_of"]

# What the self-test does to the copies that it plants, a word each; the last two to volumes alone.
IMAGE_CHANGES = (
    "rotation", "flip", "shift", "crop", "gamma", "blend", "noise", "blur", "resolution", "spectrum", "components", "reconstruct",
)  # fmt: skip
CHANGES = (*IMAGE_CHANGES, "elastic", "half")


@dataclass(frozen=True)
class Must:
    """What a value must be, beside its type.

    Attributes:
        be: in words, as they follow "must be".
        made: gives the value that is used; its ValueError says what is wrong, in words that follow "Got ...,", or none.
        short: what stands for it in a line of help; by default the choices, where there are some.
        several: one number stands for a list of one.
    """

    be: str
    made: Callable[[Any], Any] | None = None
    short: str = "VALUE"
    several: bool = False


def checked(name: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind`` has it: a type with a :class:`Must`, or None where ``kind`` may be.

    Raises:
        InputError: it is none; one line.
    """
    from pydantic import TypeAdapter, ValidationError  # takes longer than a page of help

    must, optional = _must(kind)
    if value is None and optional:
        return None
    if must.several and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = (value,)
    try:
        made = TypeAdapter(kind).validate_python(value)
        return must.made(made) if must.made else made
    except ValidationError:
        why = " instead"
    except ValueError as error:
        why = f", {error}" if str(error) else " instead"
    raise InputError(f"The {name!r} parameter must be {must.be}. Got {value!r}{why}.")


def check_fields(record: Any) -> None:
    """Make each field of a frozen ``record`` what its kind says, in place; defaults are taken as they are."""
    for name, parameter in parameters(type(record)).items():
        value = getattr(record, name)
        if value is not parameter.default:
            object.__setattr__(record, name, checked(name, parameter.annotation, value))


def words_of(kind: Any) -> str:
    """What a value of ``kind`` must be."""
    return _must(kind)[0].be


def short_of(kind: Any) -> str:
    """What stands for a value of ``kind`` in a line of help, such as N."""
    literal = get_args(_annotated(kind))[0]
    return "|".join(get_args(literal)) if get_origin(literal) is Literal else _must(kind)[0].short


def choices_of(kind: Any) -> tuple[str, ...]:
    """The words that a value of ``kind`` can be, where they are few."""
    annotated = _annotated(kind)
    literal = get_args(annotated)[0]
    return {Flag: ("true", "false"), Changes: CHANGES}.get(annotated, get_args(literal) if get_origin(literal) is Literal else ())


def _must(kind: Any) -> tuple[Must, bool]:
    return next(part for part in _annotated(kind).__metadata__ if isinstance(part, Must)), type(None) in get_args(kind)


def _annotated(kind: Any) -> Any:
    """``kind`` without the None that it may be, too."""
    parts = get_args(kind)
    return next(part for part in parts if part is not type(None)) if type(None) in parts else kind


def parameters(face: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Name -> parameter of a function or class, with its kind and default."""
    return inspect.signature(face, eval_str=True).parameters


def meant(name: str, known: Collection[str], shown: Callable[[str], str] = str) -> str:
    """What to do about a name that is not ``known``: the one that is much like it, or all, each as it is ``shown``."""
    close = alike(name, known)
    return f"did you mean {shown(close)}?" if close else f"known are {', '.join(map(shown, known))}."


def alike(name: str, known: Collection[str]) -> str | None:
    """The one of ``known`` that is much like ``name``, or the only one that begins or ends with it."""
    close = difflib.get_close_matches(name, known, 1, cutoff=0.7)
    part = [one for one in known if len(name) > 2 and (one.startswith(name) or one.endswith(f"_{name}"))]
    return close[0] if close else part[0] if len(part) == 1 else None


def _path(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError
    return os.path.expanduser(os.fspath(value))


def _existing(value: Any) -> str:
    path = _path(value)
    if not os.path.exists(path):
        raise ValueError("which does not exist")
    return path


def _folder(value: Any) -> str:
    """A folder that is there or can be made."""
    path = _path(value)
    if is_url(path):
        raise ValueError("and only a store may be a URL")
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"and {str(place)!r} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"and {str(place)!r} is not yours to write")
    return path


def _store(value: Any) -> str:
    """A folder as of :func:`_folder`, or a URL: whether fsspec knows it is told when the store is opened, before any image is."""
    path = _path(value)
    return path if is_url(path) else _folder(path)


def _encoder(value: Any) -> str:
    path = _path(value)
    if path == "none" or path.startswith("hf://"):
        return path
    script = "torchscript:" if path.startswith("torchscript:") else ""
    return script + _existing(path.removeprefix(script))


def _roles(value: Any) -> dict[str, Any]:
    try:
        roles = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError) as error:
        raise ValueError("which cannot be read") from error
    if not isinstance(roles, Mapping) or not all(isinstance(name, str) for name in roles):
        raise ValueError
    return dict(roles)


def _pattern(value: Any) -> str:
    try:
        groups = re.compile(value).groups
    except (re.error, TypeError) as error:
        raise ValueError(str(error)) from error
    if not groups:
        raise ValueError("which has no group")
    return value


def _axis(value: Any) -> int | str:
    if str(value) not in ("0", "1", "2", "sagittal", "coronal", "axial"):
        raise ValueError
    return int(value) if str(value).isdigit() else value


def _whole(value: tuple[float, ...]) -> tuple[float, ...]:
    if abs(sum(value) - 1) > 1e-6:
        raise ValueError(f"which add up to {sum(value):g}")
    return value


def _changes(value: Any) -> tuple[str, ...]:
    names = tuple(one.strip() for one in value.split(",")) if isinstance(value, str) else tuple(value)
    for one in names:
        if one not in CHANGES:
            raise ValueError(
                (f"of which {one!r} is none; " if len(names) > 1 else "which is none; ") + meant(str(one), CHANGES).rstrip(".")
            )
    if not names:
        raise ValueError
    return tuple(dict.fromkeys(names))


def _cluster(value: str) -> str:
    if not re.fullmatch(r"local|auto|[^\s/:]+:\d+", value):
        raise ValueError
    return value


def _rising(value: tuple[float, float]) -> list[float]:
    if not value[0] < value[1]:
        raise ValueError
    return list(value)


def _device(value: Any) -> str:
    device = str(value)
    form = re.fullmatch(r"cpu|mps|cuda(?::(\d+))?", device)
    if form is None:
        raise ValueError
    if device == "mps" and (sys.platform, platform.machine()) != ("darwin", "arm64"):
        raise ValueError("and this is no Apple machine with MPS; pass cpu")
    if device.startswith("cuda"):
        _require_cuda(int(form[1] or 0))
    return device


def _require_cuda(number: int) -> None:
    """Look for the GPU without importing PyTorch, which takes seconds."""
    torch = importlib.util.find_spec("torch")
    build = runpy.run_path(str(Path(torch.origin or "").with_name("version.py"))) if torch else {}
    if build.get("hip"):  # to PyTorch AMD's GPUs are CUDA devices, but CUDA's driver does not know them
        return
    if not build.get("cuda"):
        raise ValueError("and the installed PyTorch is built without CUDA; pass cpu, or install a build with CUDA")
    count = _cuda_devices()
    if number >= count:
        raise ValueError(f"and CUDA finds {count} GPUs; pass {f'cuda:0 to cuda:{count - 1}' if count else 'cpu'}")


def _cuda_devices() -> int:
    """How many GPUs CUDA's driver shows to this process."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


AnyPath = Annotated[Any, Must("a path", _path, short="PATH")]
Existing = Annotated[Any, Must("an existing file or folder", _existing, short="PATH")]
Folder = Annotated[Any, Must("a folder that can be written", _folder, short="DIR")]
Store = Annotated[Any, Must("a folder that can be written, or a URL such as s3://bucket/folder", _store, short="DIR")]
Source = Annotated[Any, Must("an existing folder, image, .csv or .json", _existing, short="PATH")]
Encoder = Annotated[Any, Must("an existing file, torchscript:FILE, hf://OWNER/NAME@VERSION or none", _encoder, short="FILE")]
Roles = Annotated[Any, Must("a mapping of roles to outputs, such as {'embedding': 'pooled'}", _roles, short="MAP")]
Pattern = Annotated[Any, Must(r"a regular expression with a group for the patient, such as '(sub-\d+)'", _pattern, short="REGEX")]
Axis = Annotated[Any, Must("0, 1, 2, sagittal, coronal or axial", _axis, short="AXIS")]
Device = Annotated[Any, Must("cpu, cuda, cuda:N or mps", _device, short="DEVICE")]
Text = Annotated[str, Must("text", short="TEXT")]
Flag = Annotated[bool, Must("true or false")]
Whole = Annotated[int, Ge(0), Must("an integer >= 0", short="N")]
Count = Annotated[int, Ge(1), Must("an integer >= 1", short="N")]
Number = Annotated[float, Ge(0), Lt(float("inf")), Must("a number >= 0", short="X")]
Share = Annotated[float, Ge(0), Le(1), Must("a number from 0 to 1", short="X")]
Rate = Annotated[float, Gt(0), Lt(1), Must("a number between 0 and 1", short="X")]
Range = Annotated[
    tuple[Annotated[float, Ge(0)], Annotated[float, Le(1)]],
    Must("two shares with 0 <= start < stop <= 1, such as 0.25,0.75", _rising, "A,B"),
]
Degrees = Annotated[tuple[int | float, ...], MinLen(1), Must("degrees, such as 0,-12,12", list, "A,B,...", several=True)]
Parts = Annotated[
    tuple[Annotated[float, Gt(0), Lt(1)], ...],
    MinLen(2),
    Must("two or more shares that add up to 1, such as 0.8,0.1,0.1", _whole, "A,B,..."),
]
Keep = Annotated[Literal["one"], Must("one")]
Changes = Annotated[Any, Must("changes of planted copies, such as rotation,noise", _changes, short="NAMES")]
Correction = Annotated[Literal["bh", "by"], Must("bh or by")]
Score = Annotated[Literal["combined", "verified", "deepssim", "mi"], Must("combined, verified, deepssim or mi")]
Ray = Annotated[str, Must("local or the address of a Ray cluster, such as HOST:6379", _cluster, short="ADDRESS")]
Index = Annotated[Literal["auto", "exact", "ivf"], Must("auto, exact or ivf")]
Duplication = Annotated[Literal["none", "low", "high", "column"], Must("none, low, high or column")]
Conditioning = Annotated[Literal["none", "variables", "text"], Must("none, variables or text")]
Volumes = Annotated[Literal["whole", "as-slices"], Must("whole or as-slices")]
Runtime = Annotated[Literal["torch", "bfloat16", "onnx"], Must("torch, bfloat16 or onnx")]
Shell = Annotated[Literal["bash", "zsh", "fish"], Must("bash, zsh or fish")]
