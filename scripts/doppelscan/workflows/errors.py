"""A user's mistake is told in one line also where MONAI or ignite come between."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from doppelscan.errors import user_mistake
from doppelscan.workflows.options import on_command_line, require_known_options

__all__ = ["one_line_errors", "told_in_one_line"]


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


def one_line_errors() -> None:
    """Let ``python -m monai.bundle`` tell a user's mistake in one line instead of its traceback; elsewhere nothing changes.

    The first such mistake is an option that the configs do not know.

    Raises:
        InputError: there is one.
    """
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

    def to_the_point(*args: Any, **kwargs: Any) -> logging.LogRecord:
        """Engines log what they raise with its traceback: not that of a mistake. ignite calls it resuming where MONAI starts an engine."""
        record = make_record(*args, **kwargs)
        if record.exc_info and user_mistake(record.exc_info[1]) is not None:
            record.exc_info = None
        if record.name.startswith("ignite.engine"):
            record.msg = re.sub("^Engine run resuming from iteration 0, epoch 0 until", "Engine run starting:", str(record.msg))
        return record

    logging.setLogRecordFactory(to_the_point)
    require_known_options()
