"""The command ``doppelscan``: a user's mistake is one line and exit status 2, never a traceback."""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, get_args, get_origin

import fire
from fire.parser import DefaultParseValue

from doppelscan.arguments import (
    AnyPath,
    Axis,
    Count,
    Encoder,
    Existing,
    Flag,
    Folder,
    Must,
    Pattern,
    Range,
    Shell,
    Source,
    Text,
    Whole,
    alike,
    checked,
    meant,
    parameters,
)
from doppelscan.completion import completion_script
from doppelscan.errors import InputError, user_mistake
from doppelscan.progress import starting
from doppelscan.project import project_options
from doppelscan.settings import GROUPS, AuditSettings, DuplicatesSettings, LeakSettings, audit_settings, overridable
from doppelscan.usage import Command, Option, overview, page
from doppelscan.version import __version__

__all__ = ["main", "read_project"]


class Commands:
    """Find memorized training patients among the synthetic images of a generative MRI model."""

    def audit(self, *, training: Source, synthetic: Source, output: Folder, holdout: Source | None = None, **settings: Any) -> None:
        """Audit a synthetic set against its training set.

        Args:
            settings: any other id of configs/audit.json, such as network_def::channels.
        """
        given = {"training": training, "synthetic": synthetic, "output": output, "holdout": holdout, **settings}
        audit_settings(given)  # before what takes seconds is imported
        AuditSettings(output=output, training=training, synthetic=synthetic, holdout=holdout).require_place()
        with starting("doppelscan audit"):
            from doppelscan.workflows.run import audit

            result = audit(**given)
        print(*result.words, sep="\n")
        sys.exit(result.exit_status)

    def leak(self, *, a: Source, b: Source, output: Folder, **settings: Any) -> None:
        """Find the images and the people of one set in another, such as training and test, or two releases."""
        given = {"a": a, "b": b, "output": output, **settings}
        own = LeakSettings(**given)  # before what takes seconds is imported
        own.require_private()
        own.require_place()
        with starting("doppelscan leak"):
            from doppelscan.workflows.leak import leak

            result = leak(**given)
        print(*result.words, sep="\n")
        sys.exit(result.exit_status)

    def duplicates(self, images: Source, *, output: Folder, **settings: Any) -> None:
        """Find the images of a set that are there twice, and those that are of one person."""
        given = {"images": images, "output": output, **settings}
        own = DuplicatesSettings(**given)
        own.require_private()
        own.require_place()
        with starting("doppelscan duplicates"):
            from doppelscan.workflows.leak import duplicates

            result = duplicates(**given)
        print(*result.words, sep="\n")
        sys.exit(result.exit_status)

    def benchmark(
        self,
        *,
        training: Source,
        holdout: Source,
        output: Folder,
        samples: Source | None = None,
        labels: Existing | None = None,
        rival: Text | None = None,
        images: Count = 20,
        transforms: Text | None = None,
        spatial_size: Count = 128,
        patient_pattern: Pattern | None = None,
        slice_axis: Axis = 2,
        slice_range: Range = (0.25, 0.75),
        slice_step: Count | None = None,
        channel: Whole | None = None,
        encoder: Encoder | None = None,
        threads: Count | None = None,
        seed: Whole = 0,
    ) -> None:
        """Measure on your own images how well copies are found, by the audit and by rivals: planted copies, hard negatives, a generator's samples.

        Args:
            training: real images; with samples, those that the generator was trained on.
            holdout: real images of other patients of the same kind, at least 6.
            output: folder for benchmark.html, benchmark.csv, benchmark.json and, with samples, labels.html.
            samples: what a generator made of the training images.
            labels: csv of labels that a person has set on labels.html.
            rival: NAME or NAME:FILE, several with commas between, such as ncc,ssim,dinov2:DIR; none for none.
            images: images of each case and side, at most.
            transforms: of planted copies, with semicolons between; by default all.
            spatial_size: pixels a side that every scorer sees.
            seed: of every draw.
        """
        from doppelscan.benchmark import benchmark
        from doppelscan.images import SliceChoice

        slices = SliceChoice(slice_axis, *slice_range, slice_step, channel)
        given = {"encoder": encoder, "threads": threads}
        result = benchmark(
            training=training, holdout=holdout, output=output, samples=samples, labels=labels, rival=rival, images=images, transforms=transforms,
            spatial_size=spatial_size, patient_pattern=patient_pattern, slices=slices, seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
        print(*result.words, sep="\n")

    def benchmark_pack(
        self,
        *,
        output: Folder,
        images: Existing,
        samples: Existing | None = None,
        labels: Existing | None = None,
        weights: Existing | None = None,
        sources: Text | None = None,
        repo: Text = "OWNER/memorization-benchmark",
        training: Existing | None = None,
        holdout: Existing | None = None,
    ) -> None:
        """Pack real images under CC0 or CC BY 4.0, a generator's samples with their labels, and its weights as a dataset for the Hub.

        Args:
            output: new or empty folder, or an earlier pack.
            images: csv with the columns path, source, licence and patient.
            samples: folder of a generator's samples.
            labels: csv of their labels, of doppelscan benchmark or its page.
            weights: of the generator.
            sources: that are packed, with commas between; by default all.
            repo: OWNER/NAME on the Hub, for the addresses in croissant.json.
            training: csv of the images that the generator was trained on, such as a study's sets/some.csv.
            holdout: csv of images that it has not seen.
        """
        from doppelscan.benchmark import benchmark_pack

        chosen = None if sources is None else [one.strip() for one in sources.split(",")]
        print(
            benchmark_pack(output, images, samples, labels, [] if weights is None else [weights], chosen, repo, training, holdout)
        )

    def dossier(
        self,
        audit: Existing | None = None,
        *,
        output: AnyPath | None = None,
        details: Existing | None = None,
        decisions: Existing | None = None,
        before: Existing | None = None,
        manifest: Existing | None = None,
        redact: Flag = True,
        key: AnyPath | None = None,
        secret: Existing | None = None,
        check: Existing | None = None,
        template: AnyPath | None = None,
    ) -> None:
        """Write what a board, a journal or a regulator files of an audit, or check that it is still that of its files; exit status 1 when it is not.

        Args:
            audit: output folder of a finished audit.
            output: dossier to write, .pdf, .html or .json.
            details: .json or .yaml of purpose, provenance, licence, contact, expiry, see --template.
            decisions: .csv of reviewers' decisions, with the columns image, decision, comment, reviewer, date.
            before: output folder of an earlier audit, before a mitigation.
            manifest: manifest.csv of the sampler; by default that of the audited set.
            redact: pseudonyms in place of paths and patients.
            key: private file that says which pseudonym stands for what.
            secret: file whose HMAC seals the dossier.
            check: dossier that is compared with the files of the audit.
            template: file of details to fill in, .json or .yaml.
        """
        from doppelscan.filing import check as checked_files
        from doppelscan.filing import dossier, write_template

        if template is not None:
            print(f"Fill in {write_template(template)} and pass it as --details.")
            return
        wanted = "--check FILE" if check else "--output FILE.pdf"
        if audit is None or (check is None) == (output is None):
            raise InputError(f"doppelscan dossier needs AUDIT and {wanted}, or --template FILE; see doppelscan dossier --help.")
        if check is not None:
            found = checked_files(dossier=check, audit=audit, secret=secret)
            print(*found, sep="\n")
            sys.exit(1 if any(one.passed is False for one in found) else 0)
        assert output is not None
        filed = dossier(
            audit=audit,
            output=output,
            details=details,
            decisions=decisions,
            before=before,
            manifest=manifest,
            redact=redact,
            key=key,
            secret=secret,
        )
        print(*filed.words, sep="\n")

    def compare(self, before: Existing, after: Existing, *, output: Folder, redact: Flag = False) -> None:
        """Compare two audits, before and after a mitigation or of two checkpoints; claims a difference only where nothing else explains it.

        Args:
            before: output folder of the earlier audit.
            after: output folder of the later audit.
            output: folder for compare.html, compare.json and compare.csv.
            redact: pseudonyms in place of the patients.
        """
        from doppelscan.filing import compare

        found = compare(before=before, after=after, output=output, redact=redact)
        print(f"{found.verdict_words}: {found.reason}.")
        print(f"Report: {os.path.abspath(os.path.join(output, 'compare.html'))}")

    def sample(self, *, output: Folder, seed: Whole = 0) -> None:
        """Write the sample cohort: training, synthetic and holdout folders with planted copies, and truth.csv.

        Args:
            output: new or empty folder, or an earlier sample.
            seed: the same seed writes the same files.
        """
        from doppelscan.images.sample import write_sample

        print(write_sample(output, seed=seed))

    def checksums(self, *, weights: Existing) -> None:
        """List the sha256 of a weights file in the checksums.json beside it, so that it is accepted and bound.

        Args:
            weights: path of the file, such as models/model.pt.
        """
        from doppelscan.publish import list_checksum

        print(list_checksum(weights))

    def quantize(self, *, model: Existing, output: AnyPath) -> None:
        """Write an int8 form of an exported ONNX encoder, calibrated on generated patients.

        Args:
            model: model.onnx of make export.
            output: the file to write.
        """
        from doppelscan.publish import quantize_int8

        print(quantize_int8(model, output))

    def pack(self, bundle: Text, *, output: Folder, weights: Existing | None = None, repo: Text | None = None) -> None:
        """Make a self-contained bundle: the same bytes every time, with the sha256 of every file.

        Args:
            bundle: folder of a bundle, or deepssim_encoder or mi_scorer.
            output: new or empty folder, or an earlier pack.
            weights: packed as models/model.pt instead of the bundle's own.
            repo: OWNER/NAME on the Hub, for the commands in its card.
        """
        from doppelscan.publish import pack

        print(pack(bundle, output, weights, repo))

    def verify(self, bundle: Existing) -> None:
        """Check a packed bundle: every sha256, a strict load, stored input against stored output; exit status 1 when a check fails.

        Args:
            bundle: folder of a packed bundle.
        """
        from doppelscan.publish import verify

        checks = verify(bundle)
        print(*checks, sep="\n")
        sys.exit(1 if any(check.passed is False for check in checks) else 0)

    def info(self, bundle: Text) -> None:
        """Tell a bundle's name, version, task, size, licence and references.

        Args:
            bundle: folder of a bundle, deepssim_encoder or mi_scorer, or OWNER/NAME[@VERSION] on the Hub.
        """
        from doppelscan.publish import info

        for key, value in info(bundle).items():
            print(f"{key:11} {value}")

    def publish(
        self, bundle: Text, *, repo: Text, public: Flag = False, dry_run: Flag = False, message: Text | None = None
    ) -> None:
        """Publish a bundle on the Hugging Face Hub: one commit, its version as a tag, latest_version moved to it.

        Args:
            bundle: folder of a bundle, packed or not, or deepssim_encoder or mi_scorer.
            repo: OWNER/NAME; made when missing, private unless --public.
            public: make a new repository public.
            dry_run: show what would be uploaded; no connection is opened.
            message: of the commit.
        """
        from doppelscan.publish import publish

        done = publish(bundle, repo, public, dry_run, message)
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

    def label_app(self, *, output: Folder) -> None:
        """Write the MONAI Label app: monailabel start_server --app OUTPUT --studies SYNTHETIC --conf training TRAINING.

        Args:
            output: new or empty folder, or an earlier app.
        """
        from doppelscan.publish import write_label_app

        print(write_label_app(output))

    def completion(self, shell: Shell) -> None:
        """Print what lets a shell complete this command, such as eval "$(doppelscan completion bash)".

        Args:
            shell: whose; for fish, doppelscan completion fish | source.
        """
        print(completion_script(shell, [_command(name) for names in TOPICS.values() for name in names]))

    def version(self) -> None:
        """Print the version."""
        print(__version__)


COMMANDS = {name: command for name, command in inspect.getmembers(Commands()) if inspect.ismethod(command)}
# What ``**settings`` of a command stands for.
SETTINGS: dict[str, type] = {"audit": AuditSettings, "leak": LeakSettings, "duplicates": DuplicatesSettings}
# Commands that take a project's file.
CONFIGURED = ("audit", "leak", "duplicates", "dossier", "compare", "benchmark")
TOPICS = {
    "Audit and search": ("audit", "leak", "duplicates"),
    "With finished audits": ("dossier", "compare"),
    "Try and measure": ("sample", "benchmark", "benchmark_pack"),
    "Bundles and weights": ("info", "pack", "verify", "publish", "checksums", "quantize", "label_app"),
    "This command": ("completion", "version"),
}
EXAMPLE = """What a command takes: doppelscan COMMAND --help. To begin with:
  doppelscan sample --output sample
  doppelscan audit --training sample/training --synthetic sample/synthetic \\
    --holdout sample/holdout --output report"""
CONFIG = Option(
    "config",
    Annotated[Any, Must("a .yaml, .toml or .json file", short="FILE")],
    "options of a project, by their names; those on the command line win over it",
)


def _parameters(command: Callable[..., None]) -> tuple[dict[str, inspect.Parameter], Collection[str]]:
    """Name -> parameter, those that ``**settings`` stands for among them, and the further names that ``**settings`` takes."""
    known = dict(parameters(command))
    if known.pop("settings", None) is None:
        return known, ()
    own = SETTINGS[command.__name__]
    others = overridable() if own is AuditSettings else ()
    return known | {name: one for name, one in parameters(own).items() if name not in known}, others


@fire.decorators.SetParseFn(str)
def _run(*words: str, **options: str) -> None:
    """Run the command that ``words`` begin with; fire has split the line, nothing is read of it yet."""
    asked = [one for one in ("help", "h") if options.get(one) not in (None, "False")]
    if words[:1] == ("help",) or (asked and not words):
        words, asked = (*words[1:], *(options[one] for one in asked if options[one] != "True")), ["help"]
    name = words[0].replace("-", "_") if words else None
    if "version" in options or (name is None and "V" in options):
        print(__version__)
    elif name is None and options.keys() - {"help", "h"}:
        raise InputError("doppelscan needs a command, such as doppelscan audit; see doppelscan --help.")
    elif name is None:
        print(
            overview({title: [_command(one) for one in names] for title, names in TOPICS.items()}, str(Commands.__doc__), EXAMPLE)
        )
    elif name not in COMMANDS:
        raise InputError(f"There is no command {words[0]}; {meant(name, COMMANDS, _spelled)}")
    elif "help" in asked or options.get("h") == "True":
        print(page(_command(name), {**GROUPS, "This command": ("config",)}))
    else:
        COMMANDS[name](**_arguments(f"doppelscan {words[0]}", name, words[1:], options))


def _arguments(called: str, command: str, words: Sequence[str], options: Mapping[str, str]) -> dict[str, Any]:
    """What the command is called with: name -> value of its kind."""
    known, others = _parameters(COMMANDS[command])
    by_place = [name for name, one in known.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(words) > len(by_place):
        raise InputError(f"{called} takes no {words[len(by_place)]!r}; see {called} --help.")
    given, file = dict(zip(by_place, words, strict=False)), None
    for option, text in options.items():
        name = _named(option, known)
        if name == "config" and command in CONFIGURED:
            file = checked(name, CONFIG.kind, _needed(name, text))
            continue
        if name not in known and re.split("::|#", name)[0] not in others:
            raise InputError(f"There is no option {_dashed(name)} of {called}; {_did_you_mean(name, known, called)}")
        given[name] = text
    values = {name: _value(name, known[name], text) if name in known else DefaultParseValue(text) for name, text in given.items()}
    if file is not None:
        values = {**_configured(file, command, values), **values}
    missing = [name for name, one in known.items() if one.default is one.empty and name not in values]
    if missing:
        needed = ", ".join(name.upper() if name in by_place else _dashed(name) for name in missing)
        raise InputError(f"{called} needs {needed}{'' if file is None else f', also beside {file}'}; see {called} --help.")
    return values


def read_project(path: str | os.PathLike, command: str = "audit") -> dict[str, Any]:
    """The options that a project's file holds for a command, as ``--config`` reads them: ``doppelscan.audit(**doppelscan.read_project("audit.yaml"))``.

    Args:
        path: of the file, .yaml, .toml or .json; docs/command-line.md says what stands in it.
        command: audit, leak, duplicates, dossier, compare or benchmark.

    Returns:
        name -> value of its kind, relative paths as from the file's folder. What is given beside it wins: ``{**read_project(path), "seed": 1}``.

    Raises:
        InputError: the file cannot be read, holds a name that no command has, or a value that is not of its kind.
    """
    name = command.replace("-", "_")
    if name not in CONFIGURED:
        raise InputError(f"The 'command' parameter must be one of {', '.join(CONFIGURED)}. Got {command!r} instead.")
    return _configured(checked("config", CONFIG.kind, os.fspath(path)), name, ())


def _configured(file: str, command: str, given: Collection[str]) -> dict[str, Any]:
    """What a project's file has for ``command``, each value of its kind, without what is ``given`` already."""
    kinds = {name: {one: each.annotation for one, each in _parameters(COMMANDS[name])[0].items()} for name in CONFIGURED}
    ids = overridable()
    options = project_options(file, command, kinds, lambda name: re.split("::|#", name)[0] in ids)
    try:
        return {
            name: _of_kind(name, kinds[command][name], value) if name in kinds[command] else value
            for name, value in options.items()
            if name not in given
        }
    except InputError as error:
        raise InputError(f"{error} It stands in {file!r}.") from error


def _named(option: str, known: Collection[str]) -> str:
    """The parameter that an option means: fire leaves an underscore of --no-gate, and a letter stands for the one name that it begins."""
    name = option.lstrip("_")
    begun = [one for one in known if one[0] == name]
    return begun[0] if len(begun) == 1 else name


def _did_you_mean(name: str, known: Collection[str], called: str) -> str:
    begun = [_dashed(one) for one in known if one[0] == name]
    if begun:
        return f"it could be {' or '.join(begun)}."
    close = alike(name, known)
    return f"did you mean {_dashed(close)}?" if close else f"see {called} --help for what there is."


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _dashed(name: str) -> str:
    return f"{'-' if len(name) == 1 and name not in 'ab' else '--'}{_spelled(name)}"


def _needed(name: str, text: str) -> str:
    if text == "True":  # what fire gives an option without a value
        raise InputError(f"The option {_dashed(name)} needs a value: {_dashed(name)} {name.upper()}.")
    return text


def _value(name: str, parameter: inspect.Parameter, text: str) -> Any:
    kind = parameter.annotation
    if text == "None" and parameter.default is None:
        return None
    return _of_kind(name, kind, text if kind is Flag else _needed(name, text))


def _of_kind(name: str, kind: Any, value: Any) -> Any:
    return checked(name, kind, DefaultParseValue(value) if isinstance(value, str) and _is_tuple(kind) else value)


def _is_tuple(kind: Any) -> bool:
    """Whether values of ``kind``, or of ``kind`` or None, are tuples."""
    annotated = next((part for part in get_args(kind) if get_origin(part) is Annotated), kind)
    return get_origin(get_args(annotated)[0]) is tuple


def _command(name: str) -> Command:
    """A command as its help and its completion tell it."""
    command = COMMANDS[name]
    known, _ = _parameters(command)
    settings = SETTINGS.get(name, AuditSettings).__mro__
    documented = "\n".join([*(str(one.__doc__) for one in reversed(settings)), str(command.__doc__)])
    said = dict(re.findall(r"^ +(\w+): (.*)\.$", documented, re.M))
    options = [
        Option(
            one,
            each.annotation,
            said[one],
            None if each.default is each.empty else each.default,
            each.default is each.empty,
            each.kind is each.POSITIONAL_OR_KEYWORD,
        )
        for one, each in known.items()
    ]
    more = f"Besides, --ID VALUE: {said['settings']}." if "settings" in parameters(command) and "settings" in said else ""
    if name in CONFIGURED:
        options.append(CONFIG)
    return Command(_spelled(name), (command.__doc__ or "").splitlines()[0], tuple(options), more)


def _for_fire(line: Sequence[str]) -> list[str]:
    """What is left of a line for fire itself; of what may follow its "--", help and completion are ours."""
    if "--" not in line:
        return list(line)
    last = len(line) - 1 - line[::-1].index("--")
    words, flags = list(line[:last]), list(line[last + 1 :])
    if flags[:1] == ["--completion"]:
        return ["completion", *(flags[1:] or ["bash"])]
    return [*words, "--help"] if set(flags) & {"--help", "-h"} else list(line)


@contextmanager
def _ends_quietly() -> Iterator[None]:
    """From Ctrl-C on, that a thread of a pool of processes ends with an error is no news: they were killed."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        threading.excepthook = lambda error: None
        signal.default_int_handler(number, frame)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """Entry point of the command."""
    warnings.filterwarnings("ignore")
    with _ends_quietly():
        _main()


def _main() -> None:
    try:
        fire.Fire(_run, command=_for_fire(sys.argv[1:]), name="doppelscan")
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ndoppelscan: stopped; run again, what is stored is not made again.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # nobody reads on, as after | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        mistake = user_mistake(error)
        if mistake is None:
            raise
        print(f"doppelscan: {mistake}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
