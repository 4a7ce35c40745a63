"""What people read of a packed bundle: the model card with its front matter, and requirements.txt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["model_card", "requirements"]

LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?://|#|/)([^)]+)(\))")


def requirements(metadata: Mapping[str, Any]) -> str:
    """The tested versions as requirements.txt: torch, MONAI, numpy and what ``required_packages_version`` lists."""
    versions = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"], "numpy": metadata["numpy_version"]}
    versions |= metadata["required_packages_version"]
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def model_card(folder: Path, metadata: Mapping[str, Any], name: str, repo: str | None = None) -> str:
    """README.md of a packed bundle: front matter that the Hub reads, how to use it, and its docs/README.md.

    Args:
        folder: the packed bundle.
        metadata: its metadata.json.
        name: folder name of the bundle.
        repo: OWNER/NAME on the Hub, for the commands; None leaves that to the reader.
    """
    front = {
        "license": str(metadata["license"]).lower(),
        "library_name": "monai",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["monai", "medical", *metadata.get("tags", [])],
        "datasets": metadata.get("datasets", []),
        "metrics": metadata.get("metrics", []),
    }
    # JSON values are YAML values, so that nothing else is needed to write it.
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value)]
    if metadata.get("eval_metrics"):
        lines += ["model-index:", *_results(metadata)]
    lines += ["---", ""]
    body = (folder / "docs" / "README.md").read_text()
    title, _, rest = body.partition("\n")
    # The card lies one folder higher than the page that it is made of.
    rest = LINK.sub(lambda m: f"{m[1]}docs/{m[2]}{m[3]}" if (folder / "docs" / m[2]).exists() else m[0], rest)
    return "\n".join([*lines, title, "", _use(name, metadata, repo)]) + rest


def _results(metadata: Mapping[str, Any]) -> list[str]:
    task = {"type": "image-feature-extraction"}
    dataset = {"name": "patients that did not train the encoder; see the card", "type": "held-out"}
    metrics = [{"type": key, "value": value} for key, value in metadata["eval_metrics"].items()]
    entry = {"name": metadata["name"], "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}
    return [f"  - {json.dumps(entry)}"]


def _use(name: str, metadata: Mapping[str, Any], repo: str | None) -> str:
    repo = repo or f"OWNER/{name}"
    return f"""## Use
Version {metadata["version"]}. Everything is in this folder; doppelscan need not be installed.

```bash
pip install monai huggingface_hub requests fire
python -m monai.bundle download --name {name} --source huggingface_hub --repo {repo} --bundle_dir .
pip install -r {name}/requirements.txt
python -m monai.bundle run --config_file {name}/configs/inference.json --dataset_dir IMAGES --output_dir out
```

The whole audit, from inside the folder `{name}`:

```bash
python -m doppelscan.cli audit --training DIR --synthetic DIR --holdout DIR --output report
python -m doppelscan.cli verify .
```
"""
