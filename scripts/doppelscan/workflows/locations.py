"""Where the bundles and configs lie: in the repository, in an installed wheel, or round a packed copy of the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["audit_root", "bundle_root"]

PACKAGE = Path(__file__).resolve().parents[1]


def audit_root() -> str:
    """The folder that holds ``configs/audit.json`` and ``bundles/``."""
    for place in (PACKAGE.parents[1], PACKAGE / "bundle"):
        if (place / "configs" / "audit.json").is_file():
            return str(place)
    raise FileNotFoundError("configs/audit.json is not beside the doppelscan package; reinstall it: pip install doppelscan")


def bundle_root(name: str) -> str:
    """The folder of the bundle ``name``, such as ``deepssim_encoder``; in a packed bundle, the one the package lies in."""
    packed = PACKAGE.parent
    if (packed / "configs" / "inference.json").is_file() and (packed / "models").is_dir():
        return str(packed)
    place = Path(audit_root()) / "bundles" / name
    if not place.is_dir():
        known = sorted(p.name for p in place.parent.iterdir() if p.is_dir())
        raise FileNotFoundError(f"The 'name' parameter of bundle_root must be one of {', '.join(known)}. Got {name!r} instead.")
    return str(place)
