"""What programs print: collected, bounded, read back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.errors import NotFoundError
from netlab.pods.logs import Collector, log_path, logs
from netlab.pods.waiting import until
from netlab.pods.watching import Watcher


@pytest.fixture
def collector() -> Iterator[Collector]:
    watcher = Watcher()
    made = Collector(watcher)
    yield made
    made.close()
    watcher.close()


def test_log_keeps_what_was_written_while_nobody_collected(tmp_path: Path) -> None:
    path = log_path(tmp_path, "shop", "web", "c")
    watcher = Watcher()
    first = Collector(watcher)
    writer = first.log(path).writer()
    os.write(writer, b"before\n")
    assert until(lambda: path.read_text() == "before\n", within=5)
    first.close()
    os.write(writer, b"meanwhile\n")
    second = Collector(watcher)
    second.log(path)
    os.write(writer, b"after\n")
    assert until(lambda: path.read_text() == "before\nmeanwhile\nafter\n", within=5)
    second.close()
    watcher.close()
    os.close(writer)


def test_log_is_bounded_and_its_end_is_kept(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netlab.pods.logs.LOG_BYTES", 100_000)
    path = log_path(tmp_path, "shop", "web", "c")
    writer = collector.log(path).writer()
    for number in range(40):
        os.write(writer, b"%9d\n" % number * 1000)
    os.write(writer, b"end\n")
    os.close(writer)
    assert until(lambda: path.read_bytes().endswith(b"end\n"), within=5)
    sizes = [file.stat().st_size for file in path.parent.glob("c.log*")]
    assert len(sizes) == 2
    assert max(sizes) <= 100_000
    text = "".join(logs(tmp_path, "shop", "web", "c"))
    assert "       39\n" in text
    assert "        0\n" not in text


def test_last_lines_span_both_files(tmp_path: Path) -> None:
    path = log_path(tmp_path, "shop", "web", "c")
    path.parent.mkdir(parents=True)
    path.with_suffix(".log.1").write_text("1\n2\n")
    path.write_text("3\n")
    assert "".join(logs(tmp_path, "shop", "web", "c", tail=2)) == "2\n3\n"
    assert "".join(logs(tmp_path, "shop", "web", "c", tail=0)) == ""
    assert "".join(logs(tmp_path, "shop", "web", "c")) == "1\n2\n3\n"


def test_following_goes_on_in_the_next_file_and_ends_with_the_pod(tmp_path: Path) -> None:
    path = log_path(tmp_path, "shop", "web", "c")
    path.parent.mkdir(parents=True)
    path.write_text("1\n")
    seen: list[str] = []
    reader = threading.Thread(
        target=lambda: seen.extend(logs(tmp_path, "shop", "web", "c", follow=True)), daemon=True
    )
    reader.start()
    assert until(lambda: seen == ["1\n"], within=5)
    os.link(path, path.with_suffix(".log.1"))
    path.with_suffix(".log.0").write_text("2\n")
    os.replace(path.with_suffix(".log.0"), path)
    assert until(lambda: seen == ["1\n", "2\n"], within=5)
    path.unlink()
    path.with_suffix(".log.1").unlink()
    path.parent.rmdir()
    reader.join(5)
    assert not reader.is_alive()


def test_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="container c of pod shop/web has no log"):
        next(logs(tmp_path, "shop", "web", "c"))
