"""The agent's control socket: one JSON request per connection, JSON lines back.

    {"do": "declare", "lab": …, "documents": […]}   progress lines, then {"result": …}
    {"do": "serve", "mode": …}                      progress lines, then {"result": …}
    {"do": "fault", "add": […], "remove": […]}      progress lines, then {"result": …}
    {"do": "attach", "attachment": … | "detach": …} progress lines, then {"result": …}
    {"do": "populate", "lab": …}                    progress lines, then {"result": …}
    {"do": "status"}                                {"result": …}
    {"do": "known"}                                 {"result": …}
    {"do": "stop"}                                  {"result": …}, and the agent ends

Who listens on the socket is asked of the kernel (SO_PEERCRED), so no pid file can lie.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from netlab.errors import NetlabError

if TYPE_CHECKING:  # a command only asks; it need not load the agent
    from netlab.agent.agent import Agent

Say = Callable[[dict[str, Any]], None]
log = logging.getLogger("netlab.agent.control")


def serve(path: Path, agent: Agent) -> None:
    """Answer requests on the socket *path* until one says stop. The main thread's loop."""
    beginning = path.with_suffix(".new")
    beginning.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(beginning))
    os.chmod(beginning, 0o600)
    listener.listen(64)
    beginning.rename(path)  # it appears only when it answers
    stopped = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            _answer(connection, agent, stopped)
        if stopped.is_set():
            # accept(2) below returns at once when the socket is shut down.
            listener.shutdown(socket.SHUT_RDWR)

    while not stopped.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        threading.Thread(target=answer, args=(connection,), daemon=True).start()
    agent.stop()


def _answer(connection: socket.socket, agent: Agent, stopped: threading.Event) -> None:
    def say(message: dict[str, Any]) -> None:
        connection.sendall(msgspec.json.encode(message) + b"\n")

    try:
        with connection.makefile("rb") as lines:
            line = lines.readline()
        if not line:
            return  # somebody only wanted to know whether anybody listens
        request = msgspec.json.decode(line)
        if request["do"] == "declare":
            say({"result": agent.requests.declare(request, say)})
        elif request["do"] == "serve":
            say({"result": agent.requests.serve_by(request, say)})
        elif request["do"] == "guest":
            say({"result": agent.requests.guest(request, say)})
        elif request["do"] == "carry":
            say({"result": agent.requests.carry_by(request, say)})
        elif request["do"] == "fault":
            say({"result": agent.requests.fault(request, say)})
        elif request["do"] == "attach":
            say({"result": agent.requests.attach(request, say)})
        elif request["do"] == "populate":
            say({"result": agent.requests.populate(request, say)})
        elif request["do"] == "status":
            say({"result": agent.status(changes=request.get("changes", False))})
        elif request["do"] == "known":
            say({"result": agent.known()})
        elif request["do"] == "stop":
            stopped.set()
            say({"result": {}})
        else:
            say({"error": f"no such request: {request['do']}"})
    except NetlabError as error:
        say({"error": error.message, "hint": error.hint})
    except (BrokenPipeError, ConnectionResetError):
        log.info("the asker went away; the work goes on")
    except Exception as error:
        log.exception("a request failed")
        say({"error": f"{type(error).__name__}: {error}"})


def listener_pid(path: Path) -> int | None:
    """Return the pid of the process that listens on the socket *path*, None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return None
        size = struct.calcsize("3i")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", credentials)[0])


def ask(path: Path, request: dict[str, Any], *, timeout: float | None) -> Iterator[dict[str, Any]]:
    """Send *request* and yield what comes back, line by line.

    Raises NetlabError when the agent says so, goes away, or is silent for *timeout* seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    message = msgspec.json.decode(line)
                    if "error" in message:
                        raise NetlabError(message["error"], hint=message.get("hint"))
                    yield message
        except OSError as error:
            raise NetlabError(
                f"the agent does not answer on {path}: {error}",
                hint="`netlab up` with the lab's files starts it again",
            ) from error
