"""What a node's log says of a fault of this program: where it happened, and of which kind, but never its text.

The text of an exception that nobody foresaw may be anything: `KeyError` says the key, which may be a firm's identifier.
So a traceback goes to the log as files, lines and the names of the exceptions (attacks.md, row 27).
"""

import logging
import traceback
from types import TracebackType


class WithoutText(logging.Filter):
    """Puts, in place of a record's exception, its traceback without the exceptions' texts. Lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, with the record's exception redacted."""
        if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            record.exc_text = frames_of(record.exc_info[1], record.exc_info[2])
            record.exc_info = None
        return True


def frames_of(fault: BaseException, trace: TracebackType | None) -> str:
    """Return the traceback of `fault` and of what it came from, the innermost first, without any exception's text."""
    cause = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    before = frames_of(cause, cause.__traceback__) + "\n\nand then\n\n" if cause is not None else ""
    return f"{before}{''.join(traceback.format_tb(trace))}{type(fault).__qualname__}"


WITHOUT_TEXT = WithoutText()


def keep_texts_out(logger: str = "lianxin") -> None:
    """Let no exception's text into this logger's records; asked for a second time, it changes nothing."""
    logging.getLogger(logger).addFilter(WITHOUT_TEXT)
