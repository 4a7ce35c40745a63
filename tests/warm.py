"""Commands in fresh processes that need not import PyTorch and MONAI first.

A server that has imported them forks a process for each command: nine seconds less each, and a hundred commands are run. What a command does
before its own imports, and a package that is not installed, must be tested by a real process.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

IMPORTED = ["torch", "monai.bundle", "doppelscan.workflows", "doppelscan.publish", "onnxruntime"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)


def run_warm(
    arguments: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 400
) -> subprocess.CompletedProcess:
    """Run ``python -m MODULE ...``, ``python -c CODE``, ``python SCRIPT ...``, each without its first word, as ``subprocess.run`` would.

    Variables of ``env`` reach the command, but not the packages that were imported before it.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        process = CONTEXT.Process(target=_command, args=(words, str(cwd), dict(env or os.environ), str(out), str(err)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def _command(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    status = 1
    try:
        kind, name, rest = (words[0], words[1], words[2:]) if words[0] in ("-m", "-c") else ("", words[0], words[1:])
        sys.argv = [name, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(name)) if not kind else cwd)
        if kind == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest]
            exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(name, run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        hook = sys.excepthook
        hook(type(error), error, error.__traceback__) if hook is not sys.__excepthook__ else traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        raise SystemExit(status)
