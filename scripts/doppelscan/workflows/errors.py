"""A user's mistake is told in one line also where MONAI or ignite come between."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from doppelscan.errors import user_mistake

__all__ = ["on_command_line", "one_line_errors", "told_in_one_line"]


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Raise the mistake itself, not what MONAI's config parser wraps round it."""
    try:
        yield
    except Exception as error:
        mistake = user_mistake(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from None


def on_command_line() -> bool:
    """A config is run by ``python -m monai.bundle``, whose terminal says nothing of what a run returns."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def one_line_errors() -> None:
    """Let ``python -m monai.bundle`` tell a user's mistake in one line instead of its traceback; elsewhere nothing changes."""
    if not on_command_line():
        return
    usual = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        mistake = user_mistake(error)
        if mistake is None:
            usual(kind, error, trace)
        else:
            print(f"doppelscan: {mistake}", file=sys.stderr)

    sys.excepthook = tell
    make_record = logging.getLogRecordFactory()

    def without_trace(*args: Any, **kwargs: Any) -> logging.LogRecord:
        """Engines log what they raise with its traceback: not that of a mistake."""
        record = make_record(*args, **kwargs)
        if record.exc_info and user_mistake(record.exc_info[1]) is not None:
            record.exc_info = None
        return record

    logging.setLogRecordFactory(without_trace)
