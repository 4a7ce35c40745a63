"""Mixed precision where it is faster, and nowhere unasked."""

from __future__ import annotations

import pytest
import torch
from doppelscan.deepssim import AutocastInferer
from doppelscan.errors import InputError
from monai.inferers import SimpleInferer


@pytest.mark.parametrize(("enabled", "fast", "expected"), [
    ("auto", True, torch.bfloat16), ("auto", False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.float32),
])  # fmt: skip
def test_a_processor_that_emulates_bfloat16_is_not_asked_for_it(monkeypatch, enabled, fast, expected):
    seen = []
    network = torch.nn.Linear(4, 2)
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    monkeypatch.setattr(AutocastInferer, "is_fast", staticmethod(lambda device: fast))
    out = AutocastInferer(enabled)(torch.ones(3, 4), network)
    assert seen == [expected] and out.dtype == torch.float32


def test_another_inferer_runs_under_it_and_several_outputs_come_back_whole():
    class Twice(SimpleInferer):
        def __call__(self, inputs, network, *args, **kwargs):
            made = super().__call__(inputs, network)
            return made, made * kwargs["factor"]

    out = AutocastInferer(True, inferer=Twice())(torch.ones(3, 4), torch.nn.Linear(4, 2), factor=2)
    assert [one.dtype for one in out] == [torch.float32] * 2
    torch.testing.assert_close(out[1], 2 * out[0])


def test_another_word_is_one_line():
    with pytest.raises(InputError, match=r"'mixed_precision' parameter must be auto, True or False. Got 'perhaps'"):
        AutocastInferer("perhaps")
