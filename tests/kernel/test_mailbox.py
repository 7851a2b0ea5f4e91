"""Questions by way of a real etcd: answered, refused, not answered, and nothing is left of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from etcd_process import EtcdProcess, running

from netlab.errors import NetlabError, StoreError
from netlab.store.mailbox import ANSWERED, ASKED, Correspondent, Mailbox

pytestmark = pytest.mark.kernel

Do = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def process() -> Iterator[EtcdProcess]:
    with running() as process:
        yield process


@contextmanager
def answering(process: EtcdProcess, node: str, do: Do) -> Iterator[None]:
    """An agent of *node*, that does *do*."""
    mailbox, over = Mailbox(process.client(), node), threading.Event()

    def serve() -> None:
        while not over.is_set():
            with suppress(StoreError):
                for question in mailbox.asked():
                    mailbox.answer(question, lambda question=question: do(question))  # type: ignore[misc]
            time.sleep(0.005)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        mailbox.close()


@contextmanager
def asker(process: EtcdProcess, node: str) -> Iterator[Correspondent]:
    made = Correspondent(process.client(), node)
    try:
        yield made
    finally:
        made.close()


def left(process: EtcdProcess) -> list[str]:
    etcd = process.client()
    try:
        return [item.key for key in (ASKED, ANSWERED) for item in etcd.range(key).items]
    finally:
        etcd.close()


def test_each_question_gets_its_own_answer(process: EtcdProcess) -> None:
    def double(question: dict[str, Any]) -> dict[str, Any]:
        return {"twice": 2 * question["n"]}

    with answering(process, "n2", double), asker(process, "n2") as one, asker(process, "n2") as two:
        found: list[tuple[int, int]] = []

        def many(of: Correspondent, numbers: range) -> None:
            for n in numbers:
                found.append((n, of.ask({"do": "double", "n": n}, timeout=10.0)["twice"]))

        threads = [
            threading.Thread(target=many, args=(of, range(first, first + 20)))
            for first, of in ((0, one), (100, one), (200, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 60
    assert all(twice == 2 * n for n, twice in found)
    assert left(process) == []


def test_a_quick_answer_does_not_wait_for_a_slow_one(process: EtcdProcess) -> None:
    asked, over = threading.Event(), threading.Event()
    mailbox = Mailbox(process.client(), "n6")

    def serve() -> None:
        while not over.is_set():
            for question in mailbox.asked():
                if question["do"] == "slow":
                    asked.set()
                    slow.append(question)
                else:
                    mailbox.answer(question, dict)
            time.sleep(0.005)

    slow: list[dict[str, Any]] = []
    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with asker(process, "n6") as one:
            waiting = threading.Thread(
                target=one.ask, args=({"do": "slow"},), kwargs={"timeout": 9}
            )
            waiting.start()
            assert asked.wait(5.0)
            for _ in range(3):
                assert one.ask({"do": "quick"}, timeout=5.0) == {}
            assert waiting.is_alive()
            mailbox.answer(slow[0], dict)
            waiting.join()
    finally:
        over.set()
        serving.join()
        mailbox.close()
    assert left(process) == []


def test_what_could_not_be_done_is_told(process: EtcdProcess) -> None:
    def refuse(question: dict[str, Any]) -> dict[str, Any]:
        raise NetlabError("no such namespace")

    with (
        answering(process, "n2", refuse),
        asker(process, "n2") as one,
        pytest.raises(NetlabError, match="n2: no such namespace"),
    ):
        one.ask({"do": "watch"}, timeout=10.0)
    assert left(process) == []


def test_who_does_not_answer_is_named_and_the_question_withdrawn(process: EtcdProcess) -> None:
    with (
        asker(process, "n3") as one,
        pytest.raises(NetlabError, match="the agent of n3 does not answer"),
    ):
        one.ask({"do": "watch"}, timeout=0.1)
    assert left(process) == []


def test_what_is_no_question_is_passed_over(process: EtcdProcess) -> None:
    etcd = process.client()
    done: list[Any] = []
    junk = [f"{ASKED}n4/{number}" for number in range(5)]
    for key, value in zip(junk, (b"", b"{", b"[]", b'"x"'), strict=False):
        etcd.put(key, value)
    etcd.put(junk[4], b'{"do": "x", "answer": "/registry/pods/default/a"}')
    with answering(process, "n4", lambda question: done.append(question) or {}):
        deadline = time.monotonic() + 10
        while not done and time.monotonic() < deadline:
            time.sleep(0.01)
        with asker(process, "n4") as one:
            assert one.ask({"do": "y"}, timeout=10.0) == {}
    assert [question["do"] for question in done] == ["x", "y"]
    assert etcd.get("/registry/pods/default/a") is None
    for key in junk:
        etcd.delete(key)
    assert left(process) == []
    etcd.close()


@pytest.mark.parametrize("outlasting", [0.0, 30.0])
def test_an_answer_is_awaited_while_etcd_is_away_for_as_long_as_it_may(
    process: EtcdProcess, outlasting: float
) -> None:
    def away(question: dict[str, Any]) -> dict[str, Any]:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4.0)  # longer than a client waits
        os.kill(process.pid, signal.SIGCONT)
        return {"back": True}

    with answering(process, "n5", away), asker(process, "n5") as one:
        if outlasting:
            assert one.ask({"do": "x"}, timeout=60.0, outlasting=outlasting) == {"back": True}
        else:
            with pytest.raises(StoreError):
                one.ask({"do": "x"}, timeout=60.0)


def test_an_answer_is_given_as_soon_as_etcd_is_back(process: EtcdProcess) -> None:
    back = threading.Timer(1.0, process.start)

    def killed(question: dict[str, Any]) -> dict[str, Any]:
        process.stop()
        back.start()
        return {"back": True}

    with answering(process, "n7", killed), asker(process, "n7") as one:
        assert one.ask({"do": "x"}, timeout=30.0, outlasting=30.0) == {"back": True}
    back.join()


def test_nothing_is_done_twice_where_the_connection_breaks(process: EtcdProcess) -> None:
    done: list[str] = []

    def killed(question: dict[str, Any]) -> dict[str, Any]:
        done.append(question["do"])
        if len(done) == 1:
            process.stop()
            process.start()
            time.sleep(2.0)  # it is asked for again meanwhile, by a mailbox whose watch has ended
        return {}

    mailbox, over = Mailbox(process.client(), "n8"), threading.Event()

    def serve() -> None:
        while not over.is_set():
            with suppress(StoreError):
                for question in mailbox.asked():
                    words = (question, lambda question=question: killed(question))
                    threading.Thread(target=mailbox.answer, args=words).start()
            time.sleep(0.02)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        with asker(process, "n8") as one:
            assert one.ask({"do": "first"}, timeout=30.0, outlasting=30.0) == {}
            assert one.ask({"do": "second"}, timeout=30.0) == {}
    finally:
        over.set()
        serving.join()
        mailbox.close()
    assert done == ["first", "second"]


def test_what_could_not_be_listed_is_listed_by_the_next_call(
    process: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreError("etcd is away")

    etcd, asking = process.client(), process.client()
    asking.put(f"{ASKED}n10/1", b'{"do": "first", "answer": "/registry/junk", "id": "x"}')
    asking.put("/registry/junk", b"no answer of anybody's")
    mailbox = Mailbox(etcd, "n10")
    with monkeypatch.context() as patched:
        patched.setattr(etcd, "range", away)
        with pytest.raises(StoreError):
            mailbox.asked()
    assert [question["do"] for question in mailbox.asked()] == ["first"]
    mailbox.close()
    for key in (f"{ASKED}n10/1", "/registry/junk"):
        asking.delete(key)
    asking.close()


def test_an_agent_that_starts_answers_what_nobody_has(process: EtcdProcess) -> None:
    done: list[str] = []

    def do(question: dict[str, Any]) -> dict[str, Any]:
        done.append(question["do"])
        return {}

    with asker(process, "n9") as one:
        with answering(process, "n9", do):
            one.ask({"do": "early"}, timeout=10.0)
        words = ({"do": "between"},)
        asking = threading.Thread(target=one.ask, args=words, kwargs={"timeout": 20.0})
        asking.start()
        time.sleep(0.3)
        with answering(process, "n9", do):
            asking.join()
        with answering(process, "n9", do):
            time.sleep(0.3)
            one.ask({"do": "late"}, timeout=10.0)
    assert done == ["early", "between", "late"]
