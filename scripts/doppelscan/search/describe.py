"""What made a cached result, in words that are the same in every process: the one fingerprint of everything that is kept on disk."""

from __future__ import annotations

import copyreg
import enum
import hashlib
import io
import json
import os
import random
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable

from doppelscan.errors import InputError

__all__ = ["describe", "fingerprint"]

RANDOM = (random.Random, np.random.RandomState, np.random.Generator, torch.Generator)
# Of every network and none of its settings: parameters, buffers and modules are described by their content.
OF_ANY_MODULE = frozenset(vars(torch.nn.Module()))
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# MONAI's random transforms keep what they drew last.
DRAWN = ("R", "_do_transform")
MONAI_REFERENCES = "__local_refs"


def fingerprint(*parts: Any) -> str:
    """sha256 of what :func:`describe` says of ``parts``: equal for results that may stand beside each other in a store.

    An object of doppelscan brings the version of its room's algorithm, ``doppelscan.images.ALGORITHM`` and the like.

    Raises:
        InputError: a part holds something whose settings cannot be read.
    """
    return hashlib.sha256(json.dumps(describe(parts), sort_keys=True).encode()).hexdigest()


def describe(value: Any) -> Any:
    """What ``value`` is, completely, in what JSON holds: like the resolved config that would make it.

    An object is its type's name under ``_target_`` and all its attributes, those of what it holds too. Arrays are the sha256 of their
    content, named functions their name, other functions (lambdas, closures) their code and what they close over. Random state and
    devices are left out, and the attributes that a class lists in ``without_effect`` because they decide no result.

    Raises:
        InputError: something whose settings cannot be read, such as an open file.
    """
    return _describe(value, "", ())


def _describe(value: Any, place: str, holders: tuple[int, ...]) -> Any:
    plain = _plain(value)
    if plain is not NotImplemented:
        return plain
    if id(value) in holders:  # described already, so many levels up
        return {"holder": len(holders) - holders.index(id(value))}

    def inner(one: Any, name: Any) -> Any:
        return _describe(one, f"{place}.{name}" if place else str(name), (*holders, id(value)))

    def named(parts: Mapping[str, Any]) -> dict[str, Any]:
        return {name: inner(one, name) for name, one in parts.items()}

    if type(value) in (list, tuple):
        return [inner(one, number) for number, one in enumerate(value)]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return named(value)
    kind = {"_target_": _name(type(value))}
    if isinstance(value, MethodType):
        return {"_target_": f"{_name(type(value.__self__))}.{value.__name__}", "of": inner(value.__self__, "self")}
    if isinstance(value, FunctionType):
        return _function(value, named)
    if isinstance(value, CodeType):
        return named({"code": value.co_code.hex(), "names": list(value.co_names), "constants": list(value.co_consts)})
    if isinstance(value, partial):
        return {**kind, **named({"func": value.func, "args": value.args, "keywords": value.keywords})}
    if isinstance(value, torch.nn.Module):
        return {**kind, **named(_network(value))}
    attributes = named(_attributes(value))
    if isinstance(value, Mapping):
        return {**kind, "items": [[inner(key, "key"), inner(one, key)] for key, one in value.items()], **attributes}
    if isinstance(value, (set, frozenset)):
        return {**kind, "items": sorted((inner(one, "item") for one in value), key=json.dumps), **attributes}
    if isinstance(value, (list, tuple)):
        return {**kind, "items": [inner(one, number) for number, one in enumerate(value)], **attributes}
    if attributes and not isinstance(value, io.IOBase):
        return {**kind, **attributes}
    return {**kind, **named(_pickled(value, place))}


def _plain(value: Any) -> Any:
    """What holds nothing else; NotImplemented for the rest."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return value.item()
    if isinstance(value, (bytes, bytearray)):
        return f"bytes {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.device):
        return "device"
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format, np.dtype)):
        return str(value)
    if isinstance(value, RANDOM):
        return _name(type(value))
    if isinstance(value, torch.Tensor):
        # numpy knows no bfloat16.
        content = value.detach().as_subclass(torch.Tensor).cpu().contiguous().flatten().view(torch.uint8).numpy()
        return f"tensor {value.dtype} {list(value.shape)} {hashlib.sha256(content.tobytes()).hexdigest()}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {list(value.shape)} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, (BuiltinFunctionType, np.ufunc)) and not isinstance(getattr(value, "__self__", None), torch.nn.Module):
        return f"{getattr(value, '__module__', None) or 'numpy'}.{getattr(value, '__qualname__', value.__name__)}"
    return NotImplemented


def _name(kind: type) -> str:
    """Qualified name of a type, with the version of its room's algorithm."""
    rooms = kind.__module__.split(".")
    version = getattr(sys.modules.get(".".join(rooms[:2])), "ALGORITHM", None) if rooms[0] == "doppelscan" else None
    return f"{kind.__module__}.{kind.__qualname__}" + ("" if version is None else f"@{version}")


def _function(value: FunctionType, named: Callable[[Mapping[str, Any]], dict]) -> Any:
    name = f"{value.__module__}.{value.__qualname__}"
    if "<" not in name and value.__module__ != "__main__":
        return name
    names, constants = _used(value.__code__)
    asked = {one: value.__globals__[one] for one in sorted(names) if one in value.__globals__}
    if MONAI_REFERENCES in asked:  # all that a config resolved so far, of which the expression names some
        asked[MONAI_REFERENCES] = {key: one for key, one in asked[MONAI_REFERENCES].items() if key in constants}
    closed = [cell.cell_contents for cell in value.__closure__ or ()]
    parts = {"code": value.__code__, "defaults": value.__defaults__, "keywords": value.__kwdefaults__, "closed": closed}
    return {"_target_": name, **named({**parts, "globals": asked})}


def _used(code: CodeType) -> tuple[set[str], set[str]]:
    """Names and strings in ``code`` and the functions that it defines."""
    names, strings = set(code.co_names), {one for one in code.co_consts if isinstance(one, str)}
    for one in code.co_consts:
        if isinstance(one, CodeType):
            more = _used(one)
            names, strings = names | more[0], strings | more[1]
    return names, strings


def _network(value: torch.nn.Module) -> dict[str, Any]:
    settings = {name: one for name, one in _attributes(value).items() if name not in OF_ANY_MODULE}
    hooks = {name: list(held.values()) for name in HOOKS if (held := getattr(value, name, None))}
    state = {f"state {name}": one for name, one in (*value.named_parameters(recurse=False), *value.named_buffers(recurse=False))}
    children = {name: one for name, one in value.named_children() if name not in _without_effect(type(value))}
    return {**settings, **hooks, **state, **children}


def _attributes(value: Any) -> dict[str, Any]:
    without = _without_effect(type(value)) | (set(DRAWN) if isinstance(value, Randomizable) else set())
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    held = {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}
    return {name: one for name, one in sorted(held.items()) if name not in without}


def _without_effect(kind: type) -> set[str]:
    """What the type and those it derives from list so, and what they only keep for later."""
    parts = [vars(one) for one in kind.__mro__]
    kept = {name for part in parts for name, one in part.items() if isinstance(one, cached_property)}
    return kept | {name for part in parts for name in part.get("without_effect", ())}


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else slots
    return [name for name in slots if name not in ("__dict__", "__weakref__")]


def _pickled(value: Any, place: str) -> dict[str, Any]:
    """What pickle would keep of an object without attributes."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        kept = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception as error:
        raise InputError(
            f"Everything that decides a stored result must have settings that can be read. Got {_name(type(value))} at "
            f"'{place}', which has none; if it decides nothing, list that attribute in 'without_effect' of the class that holds it."
        ) from error
    if isinstance(kept, str):
        return {"made by": kept}
    function, arguments, state, *iterators = (*kept, None)[: max(3, len(kept))]
    return {"made by": function, "of": arguments, "state": state, "items": [list(one) for one in iterators[:2] if one]}
