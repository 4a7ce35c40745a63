"""``doppelscan publish``: a packed bundle on the Hugging Face Hub, tagged with its version."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from doppelscan.deepssim import hub_client, hub_errors, repository_and_version
from doppelscan.errors import InputError
from doppelscan.publish.checksums import CHECKSUMS
from doppelscan.publish.info import LATEST
from doppelscan.publish.pack import bundle_folder, pack, write_card
from doppelscan.publish.verification import verify

__all__ = ["Publication", "publish"]


@dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Attributes:
        repo: OWNER/NAME.
        version: the tag.
        files: path in the repository -> bytes.
        commit: hexadecimal digits; None after a dry run.
        latest: whether ``latest_version`` points to it now; None after a dry run.
        private: whether the repository is private; None when it was there before a dry run could know.
        card: README.md.
    """

    repo: str
    version: str
    files: dict[str, int]
    commit: str | None
    latest: bool | None
    private: bool | None
    card: str


def publish(
    bundle: str | os.PathLike, repo: str, public: bool = False, dry_run: bool = False, message: str | None = None
) -> Publication:
    """Publish a bundle as one commit, with its version as a tag and ``latest_version`` moved to it.

    MONAI downloads ``latest_version`` when no version is named; its own push leaves an existing one where it was. It is moved unless a higher
    version is there already. A version that is published stays what it is: the same number again is refused.

    Args:
        bundle: packed or not; what is not packed is packed first. Every check of :func:`~doppelscan.publish.verify` must pass.
        repo: OWNER/NAME on the Hub, made when missing.
        public: make a new repository public; private otherwise. One that exists stays as it is. A scorer that was fitted holds features
            of its training images, so it goes to private repositories only.
        dry_run: everything but the upload; no connection is opened.
        message: of the commit; None names the version.

    Raises:
        InputError: a check failed, the version is published already, or a fitted scorer would be public.
        HubError: no connection, or the Hub refused.
    """
    repo, pinned = repository_and_version(repo)
    if pinned is not None:
        raise InputError(f"The 'repo' parameter must be OWNER/NAME; the version comes from the metadata. Got @{pinned} in it.")
    with _checked(bundle, repo) as folder:
        version = str(json.loads((folder / "configs" / "metadata.json").read_text())["version"])
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        card = (folder / "README.md").read_text()
        if public:
            _refuse_public_features(folder)
        if dry_run:
            return Publication(repo, version, files, None, None, None, card)
        with hub_errors(repo):
            return _upload(folder, Publication(repo, version, files, None, None, not public, card), message)


@contextmanager
def _checked(bundle: str | os.PathLike, repo: str) -> Iterator[Path]:
    """A copy of the packed bundle whose card names ``repo``, after every check passed."""
    source = bundle_folder(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / source.name
        if (source / CHECKSUMS).is_file():
            _refuse_failed(source)  # before the checksums are written anew for the card
            listed = json.loads((source / CHECKSUMS).read_text())
            for name in [*listed, CHECKSUMS]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, folder / name)
            write_card(folder, repo)
        else:
            pack(source, folder, repo=repo)
        _refuse_failed(folder)
        yield folder


def _refuse_failed(folder: Path) -> None:
    for check in verify(folder):
        if check.passed is False:
            raise InputError(
                f"The 'bundle' parameter must pass every check of doppelscan verify. Got a failed one, {check.name}: {check.words}"
            )


def _refuse_public_features(folder: Path) -> None:
    with safe_open(folder / "models" / "model.safetensors", "pt") as tensors:
        references = [name for name in sorted(tensors.keys()) if name.endswith(".reference")]
        images = max((tensors.get_slice(name).get_shape()[0] for name in references), default=1)
    if images > 1:  # before a scorer is fitted there is one row of zeros
        raise InputError(
            f"The repository must be private for a scorer that was fitted: its weights hold features of {images} training images. "
            "Got a public one; leave out --public, or publish the bundle before it is fitted."
        )


def _upload(folder: Path, planned: Publication, message: str | None) -> Publication:
    client = hub_client()
    api, repo, version = client.HfApi(), planned.repo, planned.version
    api.create_repo(repo, private=planned.private, exist_ok=True)
    private = bool(api.model_info(repo).private)
    if not private:
        _refuse_public_features(folder)
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}
    if version in tags:
        raise InputError(
            f"The version {version} is on {repo} already, and stays what it is. Raise 'version' in configs/metadata.json, add it to its changelog, and pack again."
        )
    gone = set(api.list_repo_files(repo)) - set(planned.files) - {".gitattributes"}
    operations = [client.CommitOperationAdd(name, str(folder / name)) for name in planned.files]
    operations += [client.CommitOperationDelete(name) for name in sorted(gone)]
    # One commit, so that no revision holds half a bundle.
    commit = api.create_commit(repo, operations, commit_message=message or f"Version {version}").oid
    latest = all(_number(version) >= _number(tag) for tag in tags if tag != LATEST)
    if latest:
        if LATEST in tags:
            api.delete_tag(repo, tag=LATEST)
        api.create_tag(repo, tag=LATEST, revision=commit)
    # Last: as long as it is missing, the same command again does what an interrupted one left undone.
    api.create_tag(repo, tag=version, revision=commit, tag_message=f"Version {version}")
    return Publication(repo, version, planned.files, commit, latest, private, planned.card)


def _number(version: str) -> tuple[int, ...]:
    """For the order of versions; a tag that is no version is lower than all."""
    parts = version.removeprefix("v").split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (-1,)
