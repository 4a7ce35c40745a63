"""The command: every mistake is one line before anything heavy is loaded, every spelling of an option means what it says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest
from doppelscan import cli
from doppelscan.arguments import parameters
from doppelscan.errors import InputError, user_mistake
from doppelscan.settings import AuditSettings
from made_records import made_decision, made_summary

SETS = ["--training", "training", "--synthetic", "synthetic", "--output", "out"]
MISTAKES = {
    "--fdr abc": "'fdr' parameter must be a number between 0 and 1. Got 'abc'",
    "--fdr 2": "'fdr'",
    "--fdr": "--fdr needs a value: --fdr FDR.",
    "--device cuda": "'device' parameter must be cpu, cuda, cuda:N or mps. Got 'cuda', and ",
    "--device gpu": "'device'",
    "--seed x": "'seed'",
    "--redact=maybe": "'redact' parameter must be true or false. Got 'maybe'",
    "--gate maybe": "'gate' parameter must be true or false",
    "--candidates 0": "'candidates'",
    "--score ssim": "'score'",
    "--correction holm": "'correction'",
    "--slice-range 3": "'slice_range'",
    "--slice-axis oblique": "'slice_axis'",
    "--patient-pattern (x": "'patient_pattern'",
    "--encoder nowhere.pt": "'nowhere.pt', which does not exist",
    "--holdout nowhere": "'holdout' parameter must be an existing folder",
    "--store training/a.png": "'store' parameter must be a folder that can be written",
    "--hold-out holdout": "no option --hold-out of doppelscan audit; did you mean --holdout?",
    "--devcie cpu": "did you mean --device?",
    "--out2put x": "did you mean --output?",
    "--synth x": "did you mean --synthetic?",
    "--pattern x": "did you mean --patient-pattern?",
    "--colour red": "no option --colour of doppelscan audit; see doppelscan audit --help for what there is.",
    "-t x": "no option -t of doppelscan audit; it could be --training or --threads.",
    "--config": "--config needs a value",
    "--config nowhere.yaml": "'config' parameter must be a .yaml, .toml or .json file of options. Got 'nowhere.yaml', which is no file",
    "--config training/a.png": "Got 'training/a.png', which is none; pass --config FILE.yaml.",
    "--netwrk_def::channels 3": "no option --netwrk-def::channels",
    "stray": "doppelscan audit takes no 'stray'",
}
LINES = {
    **{tuple(["audit", *SETS, *said.split()]): words for said, words in MISTAKES.items()},
    (
        "audit",
        "--training",
        "nowhere",
        *SETS[2:],
    ): "'training' parameter must be an existing folder, image, .csv or .json. Got 'nowhere'",
    ("audit", *SETS[2:]): "doppelscan audit needs --training; see doppelscan audit --help.",
    ("audit", *SETS[:4]): "doppelscan audit needs --output",
    ("audit", "--training", *SETS[2:]): "--training needs a value: --training TRAINING.",
    ("adit", *SETS): "no command adit; did you mean audit?",
    ("--training", "training"): "doppelscan needs a command, such as doppelscan audit",
    ("sample", "--outptu", "x"): "no option --outptu of doppelscan sample; did you mean --output?",
    ("sample", "--output", "x", "--seed", "x"): "'seed'",
    ("sample",): "doppelscan sample needs --output",
    ("pack", "a", "b", "--output", "x"): "doppelscan pack takes no 'b'",
    ("pack", "--output", "x"): "doppelscan pack needs BUNDLE",
    ("pack", "mi_scorer", "--output", "x", "--weights", "nowhere"): "'weights'",
    ("verify", "nowhere"): "'bundle' parameter must be an existing file or folder",
    ("info", "mi_scorer", "--verbose"): "no option --verbose of doppelscan info",
    ("publish", "mi_scorer", "--repo", "a/b", "--public=perhaps"): "'public' parameter must be true or false",
    ("quantize", "--model", "nowhere.onnx", "--output", "x"): "'model'",
    ("checksums", "--weight", "x"): "did you mean --weights?",
    (
        "benchmark",
        "--training",
        "training",
        "--holdout",
        "nowhere",
        "--output",
        "out",
    ): "'holdout' parameter must be an existing folder",
    ("benchmark", "--training", "training", "--output", "out"): "doppelscan benchmark needs --holdout",
    ("benchmark", *SETS): "no option --synthetic of doppelscan benchmark",
    ("benchmark-pack", "--output", "x", "--images", "nowhere.csv"): "'images' parameter must be an existing file or folder",
    ("dossier", "nowhere", "--output", "x.pdf"): "'audit' parameter must be an existing file or folder. Got 'nowhere'",
    (
        "dossier",
        "training",
        "--output",
        "x.pdf",
    ): "Got 'training', which holds no summary.json; pass what --output of doppelscan audit was",
    ("dossier", "training", "--output", "x.doc"): "'output' parameter must be a .pdf, .html or .json file. Got 'x.doc'",
    ("dossier", "training"): "doppelscan dossier needs AUDIT and --output FILE.pdf, or --template FILE",
    ("dossier", "--check", "training/a.png"): "doppelscan dossier needs AUDIT and --check FILE",
    (
        "dossier",
        "--check",
        "training/a.png",
        "training",
    ): "'check' parameter must be a dossier that doppelscan wrote. Got 'training/a.png'",
    ("dossier", "--template", "x.txt"): "'template' parameter must be a .json or .yaml file",
    ("dossier", "training", "--output", "x.pdf", "--redact=perhaps"): "'redact' parameter must be true or false",
    ("dossier", "training", "--otput", "x.pdf"): "did you mean --output?",
    ("compare", "training", "holdout"): "doppelscan compare needs --output",
    ("compare", "training"): "doppelscan compare needs AFTER, --output",
    (
        "compare",
        "training",
        "holdout",
        "--output",
        "x",
    ): "'before' parameter must be the output folder of a finished audit. Got 'training'",
    ("compare", "training", "training", "--output", "x"): "must be different audits. Got 'training' twice",
    ("leak", "--a", "training", "--output", "out"): "doppelscan leak needs --b; see doppelscan leak --help.",
    (
        "leak",
        "--a",
        "training",
        "--b",
        "nowhere",
        "--output",
        "out",
    ): "'b' parameter must be an existing folder, image, .csv or .json. Got 'nowhere'",
    ("leak", "--a", "training", "--b", "holdout", "--output", "out", "--fdr", "0.1"): "no option --fdr of doppelscan leak",
    (
        "leak",
        "--a",
        "training",
        "--b",
        "holdout",
        "--output",
        "out",
        "--folds",
        "5",
    ): "'folds' parameter must come with a table to write",
    ("duplicates", "--output", "out"): "doppelscan duplicates needs IMAGES",
    ("duplicates", "training", "holdout", "--output", "out"): "doppelscan duplicates takes no 'holdout'",
    ("duplicates", "training", "--output", "out", "--split", "s.csv", "--parts", "0.5,0.1"): "which add up to 0.6",
    ("duplicates", "training", "--output", "out", "--keep", "both"): "'keep' parameter must be one. Got 'both'",
    ("duplicates", "training", "--output", "out", "--redact", "--key", "out/key.csv"): "'key' parameter must lie outside",
    ("completion", "tcsh"): "'shell' parameter must be bash, zsh or fish. Got 'tcsh' instead.",
    ("completion",): "doppelscan completion needs SHELL",
    ("pack", "mi_scorer", "--output", "x", "--config", "a.yaml"): "no option --config of doppelscan pack",
    ("help", "adit"): "no command adit; did you mean audit?",
    ("label-app", "--ouput", "x"): "no option --ouput of doppelscan label-app; did you mean --output?",
}
HELP = {
    ("--version",): "0.",
    ("-V",): "0.",
    ("version",): "0.",
    ("audit", "--version"): "0.",
    (): "Audit and search:",
    ("--help",): "Audit and search:",
    ("-h",): "Audit and search:",
    ("help",): "Audit and search:",
    ("--", "--help"): "Audit and search:",
    ("audit", "--help"): "--holdout PATH",
    ("--help", "audit"): "--holdout PATH",
    ("help", "audit"): "--holdout PATH",
    ("audit", "--", "--help"): "--holdout PATH",
    ("pack", "-h"): "BUNDLE",
    ("leak", "--help"): "--split PATH",
    ("duplicates", "--help"): "--keep one",
    ("benchmark", "--help"): "--rival TEXT",
    ("audit", "--training", "nowhere", "--help"): "--training PATH --synthetic PATH --output DIR [options]",
    ("--", "--completion"): "# Completion of doppelscan in bash.",
    ("--", "--completion", "fish"): "# Completion of doppelscan in fish.",
    ("completion", "zsh"): "#compdef doppelscan",
}
# Each line in the same fresh process: what is measured is the command, not nine seconds of imports for each.
SCRIPT = """
import contextlib, io, json, resource, sys
from doppelscan.cli import main

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

rows = []
for line in json.loads(sys.stdin.read()):
    sys.argv = ["doppelscan", *line]
    out, err, before = io.StringIO(), io.StringIO(), cpu()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    rows.append([status, out.getvalue(), err.getvalue(), cpu() - before])
heavy = sorted({"torch", "monai", "numpy"} & set(sys.modules))
print(json.dumps({"rows": rows, "heavy": heavy, "cpu": cpu()}))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict:
    """What the command said to each line, in a folder with the three sets."""
    place = tmp_path_factory.mktemp("cli")
    for name in ("training", "synthetic", "holdout"):
        (place / name).mkdir()
        (place / name / "a.png").touch()
    lines = [*LINES, *HELP]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=place, input=json.dumps(lines), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not (place / "out").exists() and not (place / "x").exists()
    return {**found, "rows": dict(zip(lines, found["rows"], strict=True))}


@pytest.mark.parametrize(("line", "words"), LINES.items(), ids=lambda v: " ".join(v)[-40:] if isinstance(v, tuple) else "")
def test_a_mistake_is_one_line_and_status_2(said, line, words):
    status, out, err, _ = said["rows"][line]
    assert status == 2 and out == "", err
    assert err.startswith("doppelscan: ") and err.count("\n") == 1 and words in err, err


def test_mistakes_and_help_load_nothing_heavy_and_take_no_time(said):
    assert said["heavy"] == []
    assert said["cpu"] < 2 and max(row[3] for row in said["rows"].values()) < 1


def test_help_and_version_are_complete(said):
    for line, words in HELP.items():
        status, out, err, _ = said["rows"][line]
        assert status == 0 and words in out and err == "", line
    listed = said["rows"][("--help",)][1]
    assert all(name.replace("_", "-") in listed for name in cli.COMMANDS) and len(cli.COMMANDS) >= 10
    audit = " ".join(said["rows"][("audit", "--help")][1].split())
    assert all(f"--{name.replace('_', '-')} " in audit.replace(",", " ") for name in parameters(AuditSettings)), audit
    assert "(a number between 0 and 1; default 0.05)" in audit and "torchscript:FILE" in audit and "network_def::channels" in audit


def call(monkeypatch, *line: str) -> int:
    monkeypatch.setattr(sys, "argv", ["doppelscan", *line])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def audited(monkeypatch, tmp_path) -> dict:
    """What reaches the audit, which is not made."""
    from doppelscan.decide import Conclusion, LeftOut, Verdict
    from doppelscan.workflows import AuditResult, run

    for name in ("training", "synthetic"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    got: dict = {"skipped": []}

    def audit(**settings):
        got["settings"] = settings
        conclusion = Conclusion(Verdict.FOUND, "of the test")
        skipped = [LeftOut(name, "secret.png", "of the test") for name in got["skipped"]]
        summary = made_summary(made_decision(3), skipped=skipped).as_dict()
        return AuditResult(conclusion, summary, [], tmp_path / "out", 0)

    monkeypatch.setattr(run, "audit", audit)
    return got


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ("--gate", True),
        ("--gate --redact", True),
        ("--gate=true", True),
        ("--gate=1", True),
        ("--gate yes", True),
        ("--nogate", False),
        ("--no-gate", False),
        ("--no_gate", False),
        ("--gate=false", False),
        ("--gate=False", False),
        ("--gate=0", False),
        ("--gate=no", False),
        ("--gate false", False),
        ("-g", True),
    ],
)
def test_booleans_on_the_command_line(monkeypatch, audited, options, value):
    assert call(monkeypatch, "audit", *options.split(), *SETS) == 0
    assert audited["settings"]["gate"] is value


def test_values_arrive_as_they_were_written(monkeypatch, audited, tmp_path):
    for name in ("1e3", "None", "a,b"):
        (tmp_path / name).mkdir()
    line = [
        "audit",
        "--training",
        "1e3",
        "--synthetic=a,b",
        "--output",
        "007",
        "--patient-pattern",
        r"(\d+),",
        "--slice-range",
        "0,0.5",
    ]
    assert (
        call(monkeypatch, *line, "--fdr=0.1", "--slice_step", "None", "--network_def::channels", "[8,8,8,8]", "--ckpt-path", "None")
        == 0
    )
    assert audited["settings"] == {
        "training": "1e3", "synthetic": "a,b", "output": "007", "holdout": None, "patient_pattern": r"(\d+),", "slice_range": [0.0, 0.5],
        "fdr": 0.1, "slice_step": None, "network_def::channels": [8, 8, 8, 8], "ckpt_path": None,
    }  # fmt: skip


def test_images_that_were_left_out_are_counted_by_set_and_not_named(monkeypatch, audited, capsys):
    audited["skipped"] = ["training", "synthetic", "synthetic"]
    assert call(monkeypatch, "audit", *SETS) == 0
    printed = capsys.readouterr().out
    assert "  left out   3 images (training 1, synthetic 2); the reasons are in summary.json" in printed.splitlines()
    assert "secret" not in printed
    audited["skipped"] = []
    assert call(monkeypatch, "audit", *SETS) == 0
    assert "  left out   none" in capsys.readouterr().out.splitlines()


def test_a_run_ends_with_its_numbers_and_where_everything_lies(monkeypatch, audited, capsys, tmp_path):
    for name in ("report.html", "scores.csv"):
        (tmp_path / "out" / "store").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    assert call(monkeypatch, "audit", *SETS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "memorization found: of the test." and lines[-1] == f"Report: {tmp_path}/out/report.html"
    told = {line[2:12].strip(): line[13:] for line in lines if line.startswith("  ")}
    assert told["flagged"].startswith("3 of 8 (37.5 %, 95 % Wilson interval ") and "of the control 0 of 30" in told["flagged"]
    assert told["as"] == "copy 1, blend 1, part 1" and "8 synthetic, 40 training of 40 patients" in told["images"]
    assert f"Written to {tmp_path}/out:" in lines
    assert [line.split()[0] for line in lines[lines.index(f"Written to {tmp_path}/out:") + 1 : -1]] == [
        "report.html",
        "scores.csv",
        "store",
    ]


def test_the_terminal_is_told_at_once_that_a_run_starts_before_anything_heavy_is_loaded(tmp_path):
    """It was silent until libraries and weights were loaded, for up to a quarter of a minute."""
    (tmp_path / "images").mkdir()
    told = (
        "import sys, doppelscan.cli as cli, doppelscan.progress as p; plain = print\n"
        "def told(*words, **how):\n    plain(*words, 'torch' in sys.modules, 'monai' in sys.modules, **how); sys.exit(0)\n"
        "p.print = told\n"
        f"sys.argv = ['doppelscan', 'duplicates', {str(tmp_path / 'images')!r}, '--output', {str(tmp_path / 'out')!r}]\ncli.main()"
    )
    said = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60)
    assert (
        said.stderr.strip()
        == "doppelscan duplicates: starting. Libraries and weights are loaded first, then the lists of files. False False"
    )


@pytest.mark.parametrize("made", [KeyboardInterrupt, BrokenPipeError])
def test_who_stops_it_or_reads_no_further_gets_no_traceback(monkeypatch, audited, capfd, made):
    from doppelscan.workflows import run

    def stopped(**settings):
        raise made

    monkeypatch.setattr(run, "audit", stopped)
    monkeypatch.setattr(cli.os, "dup2", lambda *files: None)  # else this test's own output is gone
    status = call(monkeypatch, "audit", *SETS)
    said = capfd.readouterr().err
    told = "doppelscan: stopped; run again, what is stored is not made again."
    lines = said.splitlines()
    assert lines.pop(0).startswith("doppelscan audit: starting")
    assert (status, lines) == {KeyboardInterrupt: (130, ["", told]), BrokenPipeError: (141, [])}[made]


def test_ctrl_c_silences_threads_of_killed_processes_and_nothing_before_it(monkeypatch, audited, capfd):
    from doppelscan.workflows import run

    def stopped(**settings):
        threads = [threading.Thread(target=lambda: {}["an error"]) for _ in range(2)]
        threads[0].start()
        threads[0].join()
        assert "an error" in capfd.readouterr().err, "an error of a thread is told as long as nobody stops the run"
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            threads[1].start()
            threads[1].join()

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has one of its own
    monkeypatch.setattr(run, "audit", stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    try:
        assert call(monkeypatch, "audit", *SETS) == 130
        assert capfd.readouterr().err.splitlines()[-1:] == ["doppelscan: stopped; run again, what is stored is not made again."]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
    from doppelscan.images import sample

    def fails(*args, **kwargs):
        try:
            raise InputError("a refusal that was dealt with")
        except InputError:
            return {}["a fault while dealing with it"]

    monkeypatch.setattr(sample, "write_sample", fails)
    with pytest.raises(KeyError, match="a fault while"):
        call(monkeypatch, "sample", "--output", str(tmp_path / "new"))


def test_a_mistake_is_found_in_what_was_raised_from_it():
    mistake = InputError("one line")
    try:
        try:
            raise mistake
        except InputError as error:
            raise RuntimeError("Failed to instantiate") from error
    except RuntimeError as wrapped:
        assert user_mistake(wrapped) is mistake
    assert user_mistake(ValueError("ours")) is None
