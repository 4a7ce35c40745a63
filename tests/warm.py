"""Commands in fresh processes that need not import PyTorch and MONAI first.

A server that has imported them forks a process for each command: nine seconds less each, and a hundred commands are run. doppelscan itself
is imported by the command, from where the command finds it. What a command does before its own imports, and a package that is not
installed, must be tested by a real process.
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

IMPORTED = [
    "torch", "monai.bundle", "ignite.engine", "scipy.stats", "scipy.ndimage", "sklearn.linear_model", "sklearn.covariance", "faiss",
    "pyarrow.parquet", "pydicom", "matplotlib.pyplot", "onnxruntime", "onnx", "huggingface_hub", "nilearn.datasets", "fire", "pydantic",
]  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)


def run_warm(
    arguments: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 400, alone: bool = False
) -> subprocess.CompletedProcess:
    """Run ``python -m MODULE ...``, ``python -c CODE``, ``python SCRIPT ...``, each without its first word, as ``subprocess.run`` would.

    Variables of ``env`` reach the command, but of the packages that were imported before it only the Hub's client. ``alone`` takes doppelscan
    from the path, so that a command finds it only where it runs.
    """
    words = [str(argument) for argument in arguments]
    # A pack must be the same bytes: its export runs with this seed, and here it is a fork of the server.
    seed = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONHASHSEED")
        os.environ.update({} if seed is None else {"PYTHONHASHSEED": seed})
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        process = CONTEXT.Process(target=_command, args=(words, str(cwd), dict(env or os.environ), str(out), str(err), alone))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def _command(words: list[str], cwd: str, env: dict[str, str], out: str, err: str, alone: bool) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    _to_files(out, err)
    _tell_the_hubs_client()
    if alone:
        assert "doppelscan" not in sys.modules
        sys.path[:] = [place for place in sys.path if not Path(place, "doppelscan").is_dir()]
    subprocess.run = _run  # type: ignore[assignment]
    raise SystemExit(_run_python(words, cwd))


def _run_python(words: list[str], cwd: str) -> int:
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
    return status


def _to_files(out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _tell_the_hubs_client() -> None:
    """It reads the environment when it is imported."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None and "HF_ENDPOINT" in os.environ:
        endpoint, home = os.environ["HF_ENDPOINT"], Path(os.environ["HF_HOME"])
        for name, value in {
            "ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"), "HF_HUB_DISABLE_XET": True,
        }.items():  # fmt: skip
            setattr(constants, name, value)
        sys.modules["huggingface_hub.hf_api"].api.endpoint = endpoint  # that of the functions of the package


REAL_RUN = subprocess.run


def _run(command, *arguments, **settings):
    """``subprocess.run``, but the export of a pack, which wants a process that has done nothing yet, is a fork of this one."""
    if not (isinstance(command, list) and command[1:2] == ["-c"] and "write_models" in command[2]):
        return REAL_RUN(command, *arguments, **settings)
    with tempfile.TemporaryDirectory() as scratch:
        out, err = os.path.join(scratch, "out"), os.path.join(scratch, "err")
        child = os.fork()
        if not child:
            _to_files(out, err)
            os.environ.update(settings["env"])
            os._exit(_run_python(command[1:], os.getcwd()))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return subprocess.CompletedProcess(command, status, Path(out).read_text(), Path(err).read_text())
