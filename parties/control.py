"""How an operator's command speaks to a running node: a Unix socket in the state folder, for the node's user alone.

One request, one answer, each a line of JSON. The folder has mode 0700 and the socket 0600, so that the operating
system's file permissions decide who may approve, refuse or launch.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties.error_codes import code_of

SOCKET = "control.sock"
_LIMIT_BYTES = 1 << 20
_ANSWER_LIMIT_BYTES = 1 << 27  # a query of a thousand firms is answered in one line
Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ControlServer:
    """Answers requests in threads of its own until it is closed."""

    def __init__(self, state: Path, handler: Handler) -> None:
        self._path, self._handler = state / SOCKET, handler
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _inside(state):
            self._socket.bind(SOCKET)
            os.chmod(SOCKET, 0o600)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            line = stream.readline(_LIMIT_BYTES)
            try:
                answer = {"ok": True, **self._handler(json.loads(line))}
            except LianxinError as error:
                answer = {"ok": False, "error": str(error), "exit_code": error.exit_code, "code": code_of(error)}
                answer |= {"lines": lines} if (lines := getattr(error, "lines", [])) else {}
            except (ValueError, KeyError, TypeError):
                answer = {"ok": False, "error": "the request is not one that this node knows", "exit_code": 2}
            stream.write(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        """Stop answering and remove the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)


_WORKING_FOLDER = threading.Lock()


class _inside:
    """Bind under a relative name: a socket's path has 108 bytes at most, a state folder's may be longer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        _WORKING_FOLDER.acquire()
        self._before = os.open(".", os.O_RDONLY)
        os.chdir(self._folder)

    def __exit__(self, *_failure: object) -> None:
        os.fchdir(self._before)
        os.close(self._before)
        _WORKING_FOLDER.release()


def ask(state: Path, request: Mapping[str, Any], deadline_s: float = 30.0) -> dict[str, Any]:
    """Return a running node's answer. Raises InputFault when no node listens there, LianxinError with its sentence."""
    try:
        handle = os.open(state, os.O_RDONLY)
    except OSError:
        raise InputFault(f"{state} is not there: the node was never started; start it with `serve`") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(deadline_s)
            connection.connect(f"/proc/self/fd/{handle}/{SOCKET}")
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(dict(request)).encode() + b"\n")
                stream.flush()
                line = stream.readline(_ANSWER_LIMIT_BYTES)
    except TimeoutError:
        raise InputFault(f"the node in {state} did not answer within {deadline_s:.0f} s; see its log") from None
    except OSError:
        raise InputFault(
            f"no node answers in {state}; start it with `lianxin platform serve` or `lianxin bank serve`"
        ) from None
    finally:
        os.close(handle)
    answer: dict[str, Any] = (
        json.loads(line) if line else {"ok": False, "error": "the node closed the connection; see its log"}
    )
    if not answer["ok"]:
        fault = LianxinError(answer["error"])
        fault.exit_code, fault.code = answer.get("exit_code", 1), answer.get("code", "")
        if "lines" in answer:  # a file's mistakes, a line each
            fault.lines = answer["lines"]
        raise fault
    return answer
