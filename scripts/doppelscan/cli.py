"""The command ``doppelscan``: a user's mistake is one line and exit status 2, never a traceback."""

from __future__ import annotations

import os
import sys
import warnings

import fire

__all__ = ["main"]


class Commands:
    """Find memorized training patients among the synthetic images of a generative MRI model."""

    def audit(self, *, training: str, synthetic: str, output: str, holdout: str | None = None, **settings) -> None:
        """Audit a synthetic set against its training set.

        Args:
            training: folder, .csv or MONAI data list of the training images.
            synthetic: the images that the model made.
            output: folder for scores.csv, summary.json and report.html.
            holdout: real images of other patients, the control.
            settings: keys of configs/audit.json: --patient-pattern REGEX, --fdr 0.05, --correction bh|by,
                --score combined|verified|deepssim|mi, --store DIR, --redact, --gate,
                --encoder PATH, torchscript:PATH or hf://OWNER/NAME@VERSION, --runtime torch|onnx,
                --slice-axis axial, --slice-range 0.25,0.75, --slice-step N, --channel N, --device cuda, --seed N.
        """
        from doppelscan.workflows.run import audit

        result = audit(
            training=str(training),
            synthetic=str(synthetic),
            output=str(output),
            holdout=None if holdout is None else str(holdout),
            **settings,
        )
        print(f"{result.conclusion.verdict.value}: {result.conclusion.reason}.")
        print(f"Report: {os.path.abspath(result.output / 'report.html')}")
        sys.exit(result.exit_status)

    def sample(self, *, output: str, seed: int = 0) -> None:
        """Write the sample cohort: training, synthetic and holdout folders with planted copies, and truth.csv.

        Args:
            output: folder, made when missing.
            seed: the same seed writes the same files.
        """
        from doppelscan.images.sample import write_sample

        print(write_sample(str(output), seed=seed))

    def checksums(self, *, weights: str) -> None:
        """List the sha256 of a weights file in the checksums.json beside it, so that it is accepted and bound.

        Args:
            weights: path of the file, such as models/model.pt.
        """
        from doppelscan.publish import list_checksum

        print(list_checksum(str(weights)))

    def quantize(self, *, model: str, output: str) -> None:
        """Write an int8 form of an exported ONNX encoder, calibrated on generated patients.

        Args:
            model: model.onnx of make export.
            output: the file to write.
        """
        from doppelscan.publish import quantize_int8

        print(quantize_int8(str(model), str(output)))

    def pack(self, bundle: str, *, output: str, weights: str | None = None, repo: str | None = None) -> None:
        """Make a self-contained bundle: the same bytes every time, with the sha256 of every file.

        Args:
            bundle: folder of a bundle, or deepssim_encoder or mi_scorer.
            output: new or empty folder, or an earlier pack.
            weights: packed as models/model.pt instead of the bundle's own.
            repo: OWNER/NAME on the Hub, for the commands in its card.
        """
        from doppelscan.publish import pack

        print(pack(str(bundle), str(output), weights, repo))

    def verify(self, bundle: str) -> None:
        """Check a packed bundle: every sha256, a strict load, stored input against stored output; exit status 1 when a check fails.

        Args:
            bundle: folder of a packed bundle.
        """
        from doppelscan.publish import verify

        checks = verify(str(bundle))
        print(*checks, sep="\n")
        sys.exit(1 if any(check.passed is False for check in checks) else 0)

    def info(self, bundle: str) -> None:
        """Tell a bundle's name, version, task, size, licence and references.

        Args:
            bundle: folder of a bundle, deepssim_encoder or mi_scorer, or OWNER/NAME[@VERSION] on the Hub.
        """
        from doppelscan.publish import info

        for key, value in info(str(bundle)).items():
            print(f"{key:11} {value}")

    def publish(self, bundle: str, *, repo: str, public: bool = False, dry_run: bool = False, message: str | None = None) -> None:
        """Publish a bundle on the Hugging Face Hub: one commit, its version as a tag, latest_version moved to it.

        Args:
            bundle: folder of a bundle, packed or not, or deepssim_encoder or mi_scorer.
            repo: OWNER/NAME; made when missing, private unless --public.
            public: make a new repository public.
            dry_run: show what would be uploaded; no connection is opened.
            message: of the commit.
        """
        from doppelscan.publish import publish

        done = publish(str(bundle), str(repo), public, dry_run, message)
        if done.commit is None:
            print(*(f"{size:>12,}  {name}" for name, size in done.files.items()), sep="\n")
            print(done.card.split("\n## ")[0])
            latest = "latest_version would move to it unless a higher version is published"
            print(
                f"Dry run: {len(done.files)} files to {done.repo}, {'public' if public else 'private'} if new, tag {done.version}; {latest}."
            )
        else:
            latest = "latest_version points to it" if done.latest else "latest_version stays on a higher version"
            print(
                f"Published {done.repo}@{done.version} ({'private' if done.private else 'public'}), commit {done.commit[:12]}; {latest}."
            )
            print(f"Use it: doppelscan audit ... --encoder hf://{done.repo}@{done.version}")

    def label_app(self, *, output: str) -> None:
        """Write the MONAI Label app: monailabel start_server --app OUTPUT --studies SYNTHETIC --conf training TRAINING.

        Args:
            output: new or empty folder, or an earlier app.
        """
        from doppelscan.publish import write_label_app

        print(write_label_app(str(output)))

    def version(self) -> None:
        """Print the version."""
        from doppelscan.version import __version__

        print(__version__)


def main() -> None:
    """Entry point of the command."""
    warnings.filterwarnings("ignore")
    try:
        fire.Fire(Commands, name="doppelscan")
    except Exception as error:
        from doppelscan.workflows.errors import user_mistake

        mistake = user_mistake(error)
        if mistake is None:
            raise
        print(f"doppelscan: {mistake}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
