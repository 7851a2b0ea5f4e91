"""A process that holds one lab for a test run and does there what a test asks.

1. One JSON object a line: a `Request` in, its `Reply` out, in order. What can be asked:
   `deeds.DEEDS`.
2. When its input ends, the lab is taken down, whoever ended it and however.
3. One thread does all it is asked for; it has another, which records frames, only from when the lab
   is up: whoever is not root enters the user's namespaces before.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any, BinaryIO, NoReturn

import msgspec

from netlab.errors import InputError, NetlabError

DOWN_PATIENCE = 30.0  # seconds for another command that is changing the lab to be done with it


class Request(msgspec.Struct, frozen=True):
    """One line of input; `given` is what the deed takes by keyword."""

    number: int
    do: str
    given: dict[str, Any] = {}


class Failure(msgspec.Struct, frozen=True):
    """Why a deed failed: an error of netlab's by its class's name, or one of the system's."""

    kind: str  # NotFoundError, InputError, …; OSError
    message: str
    hint: str | None = None
    mistakes: list[str] = []
    number: int = 0  # errno of an OSError


class Reply(msgspec.Struct, frozen=True):
    """One line of output, to the request of that number."""

    number: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None


def failure(error: Exception) -> Failure:
    """Return *error* as it travels."""
    if isinstance(error, NetlabError):
        mistakes = error.mistakes if isinstance(error, InputError) else []
        return Failure(type(error).__name__, error.message, error.hint, mistakes)
    if isinstance(error, TimeoutError):
        return Failure("TimeoutError", str(error) or "timed out")
    if isinstance(error, OSError):
        return Failure("OSError", error.strerror or str(error), number=error.errno or 0)
    return Failure("NetlabError", f"{type(error).__name__}: {error}")


def replied(line: bytes, held: Any) -> Reply:
    """Do what *line* asks of the lab *held*; return the reply."""
    from netlab.testing.deeds import DEEDS

    request = msgspec.json.decode(line, type=Request)
    try:
        result = DEEDS[request.do](held, **request.given)
        return Reply(request.number, msgspec.Raw(msgspec.json.encode(result)))
    except Exception as error:  # all of it is the asker's to judge
        if os.environ.get("NETLAB_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        return Reply(request.number, error=failure(error))


def serve(requests: int, replies: BinaryIO) -> None:
    """Answer what comes from the descriptor *requests* until it ends; then take down what is up."""
    from netlab.testing.held import Held

    held = Held()
    unread = b""
    try:
        while True:
            data = os.read(requests, 1 << 20)
            if not data:
                break
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                replies.write(msgspec.json.encode(replied(line, held)) + b"\n")
                replies.flush()
    except BrokenPipeError:
        pass  # nobody hears us any more
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _down(held)


def _down(held: Any) -> None:
    """Take the lab down; wait for another command that is changing it."""
    deadline = time.monotonic() + DOWN_PATIENCE
    while True:
        try:
            held.down()
            return
        except NetlabError as error:
            if time.monotonic() > deadline:
                print(error, file=sys.stderr)
                return
            time.sleep(0.1)


def main() -> None:
    """Serve standard input; what anything prints meanwhile goes to stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.set_inheritable(replies.fileno(), False)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _end)
    requests = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # what is executed in the lab must not read our requests
    serve(requests, replies)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
