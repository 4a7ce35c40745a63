"""What an audit asks of an encoder, and any other network brought to it: a MONAI network, MRI-CORE, a TorchScript file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from doppelscan.errors import InputError, WeightsError

__all__ = ["Encoder", "RoleEncoder", "require_heads"]

HEADS = ("deepssim", "embedding")
ROLES = (*HEADS, "layers")
WHOLE = "output"


class Encoder(Protocol):
    """A network z-scored image float32 [B, 1, S, S] -> float32 [B, D], of which it says what plays which role.

    The roles, by the names in :attr:`output_slices`:

    - ``deepssim``, the pair head: its cosine is the similarity of a pair that is reported;
    - ``embedding``, the retrieval head: its neighbours are the candidates;
    - ``layer...``, any number of layers that the Memorization Index is taken on; without one there is no index.

    Heads are of unit length. A role may lie on another's place.
    """

    @property
    def output_slices(self) -> Mapping[str, slice]:
        """Where each role lies in D."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """float32 [B, D]."""


def require_heads(output_slices: Mapping[str, slice]) -> None:
    """Raise ``InputError`` when a head that an audit needs is missing."""
    missing = [role for role in HEADS if role not in output_slices]
    if missing:
        last = list(output_slices)[-1] if output_slices else WHOLE
        raise InputError(
            f"The 'network_def' parameter of an audit must have the roles {' and '.join(HEADS)}. Got a network without "
            f"{' and '.join(missing)}, with {', '.join(output_slices) or 'nothing'}; name what plays them, such as "
            f'--roles \'{{"deepssim": "{last}", "embedding": "{last}"}}\'.'
        )


def _declared_outputs(network: Any) -> dict[str, slice]:
    """The parts of its output that ``network`` names itself: ``output_slices``, or ``output_sizes`` as our TorchScript files keep it."""
    slices = getattr(network, "output_slices", None)
    if slices is not None:
        return dict(slices)
    return slices_of(getattr(network, "output_sizes", None) or {})


def columns_of(outputs: Mapping[str, slice], wanted: Sequence[str], head: str, joint: str = ", ", todo: str = "") -> np.ndarray:
    """Which columns of an encoder's prediction a ``head`` takes, int64, in the order of the ``wanted`` outputs.

    Args:
        outputs: name -> slice of the prediction.
        wanted: names.
        head: what it is called in the message.
        joint: between the names there.
        todo: what else can be done.

    Raises:
        InputError: the encoder gives no such outputs.
    """
    missing = [name for name in wanted if name not in outputs]
    if missing:
        raise InputError(
            f"The {head} head needs the encoder's outputs {joint.join(wanted)}. Got {', '.join(outputs)}, without {joint.join(missing)}; add them to "
            f"'outputs' of 'network_def'{todo}."
        )
    return np.concatenate([np.arange(outputs[name].start, outputs[name].stop) for name in wanted])


def slices_of(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Where outputs of these ``sizes`` lie in one vector, one behind the other."""
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = slice(start, start + size)
        start += size
    return found


class RoleEncoder(nn.Module):
    """Any network as an :class:`Encoder`.

    What it gives is named: the parts that it declares (``output_slices``), ``output`` when it gives one tensor, the keys of a mapping,
    the places ``0``, ``1``, ... of a list, joined by points where they are nested; and, of a PyTorch network, its modules by their path
    (``layer3``, ``encoder.blocks.5``). Maps [B, C, h, w] and tokens [B, N, C] are averaged over space. Heads come at unit length, layers
    as they are.

    Args:
        network: takes [B, 1, S, S] or [B, 3, S, S], to which the image is then repeated.
        roles: ``deepssim`` and ``embedding`` -> a name, ``layers`` -> a list of names. What is not said is taken as the network declares
            it (its attribute ``roles``, or parts that it calls so); of a network that declares nothing, the last output plays the heads
            and every output is a layer.
        spatial_size: S, for the trial that finds channels and sizes.
        output_slices: what the network would declare.
        name: of the network in messages; its class by default.

    Attributes:
        channels: 1 or 3.

    Raises:
        WeightsError: it takes no such image, or gives something else than vectors, maps or tokens of each image.
        InputError: an unknown role, or a name that the network does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        roles: Mapping[str, Any] | None = None,
        spatial_size: int = 128,
        output_slices: Mapping[str, slice] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.network, self.channels = network.eval(), 1
        self.declared = dict(output_slices or _declared_outputs(network))
        name = name or f"of class {type(network).__name__}"
        unknown = [role for role in roles or {} if role not in ROLES]
        if unknown:
            raise InputError(
                f"The 'roles' parameter must map some of {', '.join(ROLES)}. Got {', '.join(map(str, unknown))} instead."
            )
        self.modules_taken: tuple[str, ...] = ()
        chosen = {**self._own_roles(), **(roles or {})}
        wanted = [one for role in chosen for one in _names(chosen[role])]
        sizes = {one: part.stop - part.start for one, part in self.declared.items()}
        if not self.declared or not set(wanted) <= set(sizes):
            modules = dict(network.named_modules()) if not isinstance(network, torch.jit.ScriptModule) else {}
            self.modules_taken = tuple(one for one in dict.fromkeys(wanted) if one and one not in sizes and one in modules)
            outputs = self._tried(spatial_size, name)
            chosen = {**self._own_roles(list(outputs)[: len(outputs) - len(self.modules_taken)]), **(roles or {})}
            sizes = {one: _size(value, name) for one, value in outputs.items()}
        self.parts, self.output_slices = self._laid_out(chosen, sizes, name)

    def _own_roles(self, outputs: Sequence[str] = ()) -> dict[str, Any]:
        own = getattr(self.network, "roles", None)
        if own is not None:
            return dict(own)
        if self.declared:
            heads: dict[str, Any] = {role: role for role in HEADS if role in self.declared}
            return {**heads, "layers": [one for one in self.declared if one not in HEADS]}
        return {**dict.fromkeys(HEADS, outputs[-1]), "layers": list(outputs)} if outputs else {}

    @torch.no_grad()
    def _tried(self, spatial_size: int, name: str) -> dict[str, torch.Tensor]:
        device = next((one.device for one in self.network.parameters()), torch.device("cpu"))
        failure = ""
        for self.channels in (1, 3):
            try:
                return self._outputs(torch.zeros(2, 1, spatial_size, spatial_size, device=device))
            except Exception as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                failure = lines[-1][:160]
        raise WeightsError(
            f"The encoder {name} must take float32 [B, 1, {spatial_size}, {spatial_size}] or [B, 3, {spatial_size}, {spatial_size}]. "
            f"Got an error: {failure}"
        )

    def _laid_out(self, chosen: Mapping[str, Any], sizes: Mapping[str, int], name: str) -> tuple[list, dict[str, slice]]:
        """The parts of the result, (name, at unit length), and where each role lies in it."""
        parts: dict[tuple[str, bool], slice] = {}
        slices, stop = {}, 0
        for role in ROLES:
            for source in _names(chosen.get(role)):
                if source not in sizes:
                    raise InputError(
                        f"The 'roles' parameter must name outputs or modules of the encoder {name}. Got {source!r} for {role}; its outputs "
                        f"are {', '.join(one for one in sizes if one not in self.modules_taken)}."
                    )
                part = (source, role in HEADS)
                if part not in parts:
                    parts[part] = slice(stop, stop + sizes[source])
                    stop += sizes[source]
                slices[role if role in HEADS else _layer(source)] = parts[part]
        return list(parts), slices

    def _outputs(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        taken: dict[str, torch.Tensor] = {}
        hooks = [self.network.get_submodule(one).register_forward_hook(partial(_take, taken, one)) for one in self.modules_taken]
        try:
            # Tokens are viewed by some networks, which then need the usual memory format.
            found = self.network(image.contiguous().expand(-1, self.channels, -1, -1).contiguous())
        finally:
            for hook in hooks:
                hook.remove()
        if self.declared:
            return {**{one: found[:, part] for one, part in self.declared.items()}, **taken}
        return {**dict(_named(found, "")), **taken}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        outputs = self._outputs(image)
        vectors = [(_pooled(outputs[source]).float(), unit) for source, unit in self.parts]
        return torch.cat([F.normalize(vector, dim=1) if unit else vector for vector, unit in vectors], 1)


def _names(source: Any) -> list[str]:
    if source is None:
        return []
    return [str(one) for one in source] if isinstance(source, (list, tuple)) else [str(source)]


def _layer(source: str) -> str:
    return source if source.startswith("layer") else f"layer {source}"


def _take(taken: dict[str, torch.Tensor], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    taken[name] = output[0] if isinstance(output, (list, tuple)) else output


def _named(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, (Mapping, list, tuple)):
        for key, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _named(one, f"{name}.{key}" if name else str(key))
    else:
        yield name or WHOLE, value


def _size(value: Any, name: str) -> int:
    """Length of the vector that ``value`` of two images comes to."""
    vector = _pooled(value.float()) if isinstance(value, torch.Tensor) and 2 <= value.ndim <= 4 else None
    if vector is None or len(vector) != 2 or vector.shape[1] < 2:
        got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise WeightsError(
            f"The encoder {name} must give one vector an image, [B, D], maps [B, C, h, w] or tokens [B, N, C]. Got {got} for 2 images; "
            "it is not an embedding network."
        )
    return vector.shape[1]


def _pooled(value: torch.Tensor) -> torch.Tensor:
    return value if value.ndim == 2 else value.mean(1) if value.ndim == 3 else value.mean((2, 3))
