"""Rivals by name and by NAME:FILE."""

from __future__ import annotations

import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.rivals import RIVALS, rivals


class Descriptor(torch.nn.Module):
    def forward(self, image):
        return torch.nn.functional.adaptive_avg_pool2d(image, 8).flatten(1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sscd.ts"
    torch.jit.script(Descriptor()).save(str(path))
    return path


def test_all_names_give_rivals_of_different_names_in_this_order():
    made = rivals(RIVALS)
    assert len(made) == len(RIVALS) == len({one.name for one in made})
    assert [one.name for one in rivals(["ssim", "ncc"])] == ["SSIM", "NCC"]


@pytest.mark.parametrize(
    ("method", "cut"), [("chen", 0.60), ("semdedup", 0.99905), ("dar", None), ("calibrated", None), ("m3", -1.0), ("mine", None)]
)
def test_an_encoder_in_a_file_serves_each_method(method, cut, file, squares):
    (rival,) = rivals(files=[f"{method}:{file}"])
    assert rival.name == ("mine" if method == "mine" else f"{method}:sscd")
    found = rival.rank(squares.training, squares.images)
    assert tuple(found.match[:3]) == squares.sources and found.threshold == cut


def test_a_method_with_and_without_a_file_can_stand_in_one_table(file):
    assert [one.name for one in rivals(["semdedup"], [f"semdedup:{file}"])] == ["SemDeDup", "semdedup:sscd"]


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        (["ssmi"], [], "There is no rival 'ssmi'; did you mean ssim?"),
        (["chen"], [], "pass files=['chen:FILE'], or --rival chen:FILE"),
        (["dinov2:FILE"], [], "'names' parameter must be rivals without a file. Got 'dinov2:FILE'; pass files=['dinov2:FILE']."),
        (["ssim", "ssim"], [], "Got SSIM twice"),
        ([], ["dinov2"], "must be NAME:FILE, such as dinov2:/models/dinov2-base"),
        ([], [":x.ts"], "must be NAME:FILE"),
        ([], ["dinov2:"], "must be NAME:FILE"),
        ([], ["ssim:x.ts"], "The rival 'ssim' takes no file"),
        ([], ["mine:nowhere.ts"], "Got 'nowhere.ts', which does not exist"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(names, files, message):
    with pytest.raises(InputError) as caught:
        rivals(names, files)
    assert message in str(caught.value) and "\n" not in str(caught.value)
