"""Generated cohorts and audits that several tests look at; nothing is downloaded and no person is in them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from made_files import save_png

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, request):
    """Nothing in doppelscan may open a connection: a socket that connects fails the test, but to this machine where it is marked so."""

    connect = socket.socket.connect
    loopback = request.node.get_closest_marker("loopback") is not None

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            if loopback and address[0] in ("127.0.0.1", "localhost"):
                return connect(self, address)
            raise AssertionError(f"a connection to {address} was opened")
        return connect(self, address)  # between a DataLoader and its workers

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session", autouse=True)
def no_self_test() -> Iterator[None]:
    """Audits from Python plant no copies unless a test says ``self_test=True``: that takes longer than the rest of a small audit."""
    from doppelscan.workflows import run

    plain = run.audit_overrides
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "audit_overrides", lambda settings: plain({"self_test": False, **settings}))
        yield


@pytest.fixture(scope="session")
def cohort() -> np.ndarray:
    """float32 [60, 96, 96] in [0, 1]: one image each of 60 generated patients who look alike."""
    from doppelscan.images import generate_cohort

    images, _ = generate_cohort(60, 1, 96, seed=11)
    return images[:, 0].numpy().astype(np.float32) / 255


@pytest.fixture
def folders(tmp_path, cohort) -> dict[str, Path]:
    """Ten training images, four synthetic (one of them a flipped copy of training 3) and twenty holdout images, as PNG."""
    for i in range(10):
        save_png(tmp_path / "training" / f"p{i:02d}.png", cohort[i])
    save_png(tmp_path / "synthetic" / "copy.png", cohort[3][:, ::-1])
    for i in range(10, 13):
        save_png(tmp_path / "synthetic" / f"novel{i}.png", cohort[i])
    for i in range(20, 40):
        save_png(tmp_path / "holdout" / f"q{i}.png", cohort[i])
    return {name: tmp_path / name for name in ("training", "synthetic", "holdout")}


@pytest.fixture
def warm(folders, store) -> dict[str, Path]:
    """:func:`folders` with a store that earlier tests have filled, for tests that are not about embedding."""
    return {**folders, "store": store}


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """Embeddings and registered pairs of the shipped encoder: an image that several tests of one process look at is embedded once."""
    return tmp_path_factory.mktemp("store")


def made_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of several pytest processes makes and the others read."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    with FileLock(folder / f"{name}.lock"):
        if not (folder / f"{name}.made").exists():
            make(folder / name)
            (folder / f"{name}.made").touch()
    return folder / name


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """A smaller sample cohort than ``doppelscan sample`` writes."""
    from doppelscan.images.sample import write_sample

    return made_once(tmp_path_factory, "sample", lambda folder: write_sample(folder, training=24, holdout=20, novel=8, copies=16))


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """A folder with both bundles as ``doppelscan pack`` makes them."""
    from warm import run_warm

    def make(folder: Path) -> None:
        code = "import sys; from doppelscan.publish import pack; [pack(name, f'{sys.argv[1]}/{name}') for name in sys.argv[2:]]"
        done = run_warm(["-c", code, folder, "deepssim_encoder", "mi_scorer"], folder.parent)
        assert done.returncode == 0, done.stderr[-2000:]

    return made_once(tmp_path_factory, "packed", make)
