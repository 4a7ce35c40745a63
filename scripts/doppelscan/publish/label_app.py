"""``doppelscan label-app``: the folder that ``monailabel start_server --app`` takes, with both bundles in it."""

from __future__ import annotations

import os
from pathlib import Path

from doppelscan.errors import InputError
from doppelscan.publish.checksums import CHECKSUMS
from doppelscan.publish.pack import pack

__all__ = ["write_label_app"]

BUNDLES = ("deepssim_encoder", "mi_scorer")
# MONAI Label 0.8.5 runs on NumPy 1 and pydicom 2; the versions of the bundles' own requirements.txt are newer.
REQUIREMENTS = """monailabel==0.8.5
numpy<2
pydicom<3
pynetdicom<3
dicomweb-client<0.60
monai>=1.5
pytorch-ignite
faiss-cpu
pyarrow
safetensors
scikit-learn
scipy
nibabel
pillow
tqdm
jinja2
matplotlib
fire
filelock
pydantic>=2
"""
MAIN = '''"""MONAI Label app of Doppelscan. Start: monailabel start_server --app {folder} --studies SYNTHETIC --conf training TRAINING"""

import sys
from pathlib import Path

# The bundles carry the package; one that is installed is not taken.
sys.path[:0] = [str(folder) for folder in sorted((Path(__file__).parent / "model").iterdir()) if folder.is_dir()]

from doppelscan.publish.label import DoppelscanApp as App  # noqa: E402, F401
'''


def write_label_app(output: str | os.PathLike) -> Path:
    """Write the app: main.py, requirements.txt, and ``model/`` with both bundles as :func:`~doppelscan.publish.pack` makes them.

    Args:
        output: new folder, or an app that this made.

    Raises:
        InputError: ``output`` holds something else.
    """
    folder = Path(output).expanduser().resolve()
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / "model" / BUNDLES[0] / CHECKSUMS).is_file())
    ):
        raise InputError(
            f"The 'output' parameter must be a new or empty folder, or an earlier app. Got {str(folder)!r}, which holds other files."
        )
    for name in BUNDLES:
        pack(name, folder / "model" / name)
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    (folder / "main.py").write_text(MAIN.format(folder=folder.name))
    return folder
