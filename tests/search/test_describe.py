"""The fingerprint: whatever decides a result is in it, and what does not is left out, in every process alike."""

from __future__ import annotations

import functools
import re
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder
from doppelscan.errors import InputError
from doppelscan.images import ForegroundSquared, LoadSliced, Windowd
from doppelscan.search import describe, fingerprint
from monai.bundle import ConfigParser
from monai.transforms import Compose, Lambda, Lambdad, NormalizeIntensityd, RandAffined, ScaleIntensityRanged
from warm import run_warm


def scaled(image, by):
    return image * by


def half(image):
    return image / 2


def third(image):
    return image / 3


def closed(number):
    return lambda image: image * number


class Step:
    without_effect: ClassVar = ("workers",)

    def __init__(self, size=1, workers=0, inner=None):
        self.size, self.workers, self.inner = size, workers, inner

    def run(self):
        return self.size


class OneStepMore(Step):
    def __init__(self, more=0, **others):
        super().__init__(**others)
        self.more = more


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size


def normalised(**settings):
    return NormalizeIntensityd("image", **settings)


PAIRS = {
    "a setting": (lambda: Windowd("image", 1, 99), lambda: Windowd("image", 2, 99)),
    "inside of a nested transform": (lambda: normalised(nonzero=True), lambda: normalised(nonzero=False)),
    "two levels down": (
        lambda: Compose([Windowd("image"), Compose([normalised(subtrahend=1.0)])]),
        lambda: Compose([Windowd("image"), Compose([normalised(subtrahend=2.0)])]),
    ),
    "order": (
        lambda: Compose([Windowd("image"), normalised()]),
        lambda: Compose([normalised(), Windowd("image")]),
    ),
    "an array": (lambda: normalised(subtrahend=np.zeros(3)), lambda: normalised(subtrahend=np.arange(3.0))),
    "the type of an array": (lambda: np.zeros(3, np.float32), lambda: np.zeros(3, np.int32)),
    "the shape of an array": (lambda: torch.zeros(2, 3), lambda: torch.zeros(3, 2)),
    "a function": (lambda: Lambda(half), lambda: Lambda(third)),
    "a lambda": (lambda: Lambda(lambda image: image * 2), lambda: Lambda(lambda image: image * 3)),
    "what a lambda calls": (lambda: Lambda(lambda image: half(image)), lambda: Lambda(lambda image: third(image))),
    "what a lambda in a lambda says": (lambda: lambda x: (lambda y: y + 1)(x), lambda: lambda x: (lambda y: y + 2)(x)),
    "what a closure holds": (lambda: Lambda(closed(2)), lambda: Lambda(closed(3))),
    "a default": (lambda: lambda image, by=2: image * by, lambda: lambda image, by=3: image * by),
    "a partial": (lambda: functools.partial(scaled, by=2), lambda: functools.partial(scaled, by=3)),
    "whose method": (lambda: Step(1).run, lambda: Step(2).run),
    "an attribute of a subclass": (lambda: OneStepMore(more=1), lambda: OneStepMore(more=2)),
    "a slot": (lambda: Slotted(1), lambda: Slotted(2)),
    "a type": (lambda: Step(1), lambda: SimpleNamespace(size=1, inner=None)),
    "a mapping": (lambda: OrderedDict(a=1), lambda: OrderedDict(a=2)),
    "an element of a set": (lambda: {"a", "b"}, lambda: {"a", "c"}),
    "a pattern": (lambda: re.compile("a"), lambda: re.compile("b")),
    "a range": (lambda: range(3), lambda: range(4)),
    "a path": (lambda: Path("a"), lambda: Path("b")),
    "a boolean": (lambda: Step(True), lambda: Step(1)),
    "weights": (lambda: torch.nn.Linear(2, 2), lambda: torch.nn.Linear(2, 2)),
    "a buffer that is not saved": (lambda: buffered(0.0), lambda: buffered(1.0)),
    "a stride": (lambda: torch.nn.MaxPool2d(2), lambda: torch.nn.MaxPool2d(2, 1)),
    "a hook": (lambda: hooked(lambda *x: x[2]), lambda: hooked(lambda *x: x[2] + 1)),
}


def buffered(value):
    module = torch.nn.Identity()
    module.register_buffer("mean", torch.full((1,), value), persistent=False)
    return module


def hooked(hook):
    module = torch.nn.Identity()
    module.register_forward_hook(hook)
    return module


@pytest.mark.parametrize(("first", "second"), PAIRS.values(), ids=PAIRS)
def test_what_decides_a_result_is_in_the_fingerprint(first, second):
    assert fingerprint(first()) != fingerprint(second())
    made = first()
    assert fingerprint(made) == fingerprint(made)
    if not isinstance(made, torch.nn.Linear):
        assert fingerprint(made) == fingerprint(first())


def test_what_decides_nothing_is_not_in_it():
    random = RandAffined("image", prob=1.0, rotate_range=0.1)
    before = fingerprint(random)
    random.set_random_state(5)
    random.randomize({"image": torch.zeros(1, 8, 8)})
    assert fingerprint(random) == before
    assert fingerprint(Step(workers=4)) == fingerprint(Step()) and fingerprint(OneStepMore(workers=4)) == fingerprint(OneStepMore())
    network = DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4)
    before = fingerprint(network)
    assert fingerprint(network.eval().to(memory_format=torch.channels_last).requires_grad_(False)) == before
    path = Path("a")
    before = fingerprint(path)
    assert str(path) == "a" and fingerprint(path) == before  # a path remembers how it is written


def test_what_holds_itself_is_described_once():
    one = Step()
    one.inner = Step(inner=one)
    other = Step()
    other.inner = Step(size=2, inner=other)
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("held", [threading.Lock(), (i for i in "ab"), sys.stderr], ids=["lock", "generator", "file"])
def test_what_cannot_be_read_is_refused_with_its_place(held):
    with pytest.raises(InputError, match=r"must have settings that can be read. Got .* at '0.transforms.1.inner'") as told:
        fingerprint(Compose([Windowd("image"), Step(inner=held)]))
    assert "\n" not in str(told.value)


def test_the_version_of_a_rooms_algorithm_is_in_it(monkeypatch):
    import doppelscan.images

    before = fingerprint(ForegroundSquared("image"))
    monkeypatch.setattr(doppelscan.images, "ALGORITHM", doppelscan.images.ALGORITHM + 1)
    assert fingerprint(ForegroundSquared("image")) != before


CONFIG = {
    "scale": 2.0,
    "other": "$object()",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "doppelscan.images.Windowd", "keys": "image"},
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x * @scale"},
        ],
    },
}


def test_an_expression_of_a_config_is_described_with_what_it_refers_to():
    def made(scale):
        parser = ConfigParser({**CONFIG, "scale": scale})
        parser.get_parsed_content("other")
        return fingerprint(parser.get_parsed_content("preprocessing"))

    assert made(2.0) == made(2.0) != made(3.0)


def test_a_description_is_the_same_in_another_process(tmp_path):
    program = """
import numpy as np, torch
from doppelscan.deepssim import DeepSSIMEncoder
from doppelscan.images import LoadSliced, Windowd
from doppelscan.search import fingerprint
from monai.transforms import Compose, Lambdad, NormalizeIntensityd, RandAffined, ScaleIntensityRanged
torch.manual_seed(0)
network = DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4)
steps = [LoadSliced("image"), Windowd("image"), NormalizeIntensityd("image", subtrahend=np.arange(3.0)),
         ScaleIntensityRanged("image", 0, 1, 0, 2), RandAffined("image", prob=0.5, rotate_range=0.3), Lambdad("image", torch.sigmoid),
         {"a", "b", "c"}]
print(fingerprint(Compose(steps), network, {"x", "y", "z"}))
"""
    scope: dict = {}
    exec(program.replace("\nprint(", "\nfound = ("), scope)
    done = run_warm(["-c", program], tmp_path)  # a process with another order of sets and other addresses
    assert done.stdout.strip() == scope["found"], done.stderr[-2000:]


def test_a_description_reads_like_a_config():
    described = describe(Compose([LoadSliced("image"), Windowd("image", 1.0), Lambdad("image", half)]))
    window = described["transforms"][1]
    assert window["_target_"].startswith("doppelscan.images.transforms.Windowd@") and window["lower"] == 1.0
    assert described["transforms"][2]["func"] == [f"{__name__}.half"]
    assert ScaleIntensityRanged.__name__ in describe(ScaleIntensityRanged("image", 0, 1, 0, 2))["_target_"]
