"""The page of a journey in a real browser: what it shows at a step, its keys, its errors."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from told_journeys import conversation, dropped

from netlab.picture import html

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--virtual-time-budget=3000", "--window-size=1600,900"),
)


class Seen:
    """A page as the browser has it after its script ran."""

    def __init__(self, dom: str, errors: list[str]) -> None:
        self.dom = dom
        self.errors = errors

    @property
    def step(self) -> int:
        found = re.search(r'<body class="\w*" data-step="(\d+)"', self.dom)
        return int(found[1]) if found else 0

    def current(self, element: str) -> str:
        """Return the text of the one *element* that is the current one."""
        pattern = rf'<{element} class="[^"]*\bcurrent\b[^"]*"[^>]*>(.*?)</{element}>'
        (text,) = re.findall(pattern, self.dom, re.DOTALL)
        return re.sub(r"<[^>]*>", " ", text)

    def points(self, line: str) -> int:
        """Return how many points the polyline *line* has."""
        found = re.search(rf'<polyline id="{line}" points="([^"]*)"', self.dom)
        return len(found[1].split()) if found else 0


def opened(directory: Path, page: str, anchor: str = "") -> Seen:
    """Return *page* as chromium has it, opened at *anchor*."""
    assert BROWSER is not None
    file = directory / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [BROWSER, *QUIET, f"--user-data-dir={directory}/profile", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{file}{anchor}"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(directory), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stderr
    return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def played(page: str, script: str) -> str:
    """Return *page* without its policy, with a *script* at its end in which key(k) presses k."""
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    press = "const key = (key) => document.dispatchEvent(new KeyboardEvent('keydown', {key}));"
    return page.replace("</body>", f"<script>{press}{script}</script></body>")


@pytest.mark.parametrize(
    ("anchor", "step", "panel", "line", "gone"),
    [
        ("", 1, "out through eth0", "out through eth0", 1),
        ("#step=3", 3, "-d 10.96.0.10/32 -p tcp -j KUBE-SEP-1", "Service default/web:http", 3),
        ("#step=5", 5, "destination rewritten (DNAT)", "destination → 10.244.2.2:8080", 5),
        ("#step=9", 9, "192.168.50.101:51123 → 192.168.50.102:8472", "out through eth0, in VX", 9),
        ("#step=36", 36, "12 devices in 33 µs", "the way of SYN ACK once more", 16),
        ("#step=999", 36, "the way of SYN ACK once more", "the way of SYN ACK once more", 16),
        ("#step=x", 1, "out through eth0", "out through eth0", 1),
    ],
)
def test_the_page_opens_at_a_step(
    tmp_path: Path, anchor: str, step: int, panel: str, line: str, gone: int
) -> None:
    seen = opened(tmp_path, html.page(*conversation()), anchor)
    assert seen.errors == []
    assert seen.step == step
    assert panel in seen.current("article").replace("&gt;", ">")
    assert line in seen.current("li")
    assert f'<span id="count">{step} / 36</span>' in seen.dom
    assert seen.points("trail") == gone
    assert "translate(" in seen.dom


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        (("ArrowRight", "ArrowRight", "PageDown"), 4),
        (("ArrowRight", "ArrowRight", "ArrowLeft", "PageUp", "PageUp"), 1),
        (("End",), 36),
        (("End", "ArrowRight"), 36),
        (("End", "Home"), 1),
        (("ArrowDown",), 19),
        (("ArrowDown", "ArrowRight", "ArrowUp"), 19),
        (("ArrowDown", "ArrowUp"), 1),
        (("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown"), 36),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_keys_go_through_it(tmp_path: Path, keys: tuple[str, ...], step: int) -> None:
    script = "".join(f"key('{key}');" for key in keys)
    seen = opened(tmp_path, played(html.page(*conversation()), script))
    assert (seen.errors, seen.step) == ([], step)


def test_it_plays_and_pauses(tmp_path: Path) -> None:
    page = html.page(*conversation())
    playing = opened(tmp_path, played(page, "key(' ');"))
    assert playing.step >= 2 and "❚❚ pause" in playing.dom
    paused = opened(tmp_path, played(page, "key(' '); key(' ');"))
    assert paused.step == 1 and "▶ play" in paused.dom


@pytest.mark.parametrize("step", [1, 5])
def test_a_harmful_name_runs_nothing_in_a_browser(tmp_path: Path, step: int) -> None:
    seen = opened(tmp_path, html.page(*dropped()), f"#step={step}")
    assert (seen.errors, seen.step) == ([], step)
    assert seen.dom.count("<script") == 2
    assert "alert(1)" in seen.current("article" if step == 5 else "li")


def test_an_error_in_a_page_would_be_seen(tmp_path: Path) -> None:
    broken = played(html.page(*conversation()), "nonsense();")
    assert "nonsense is not defined" in "".join(opened(tmp_path, broken).errors)


def test_the_policy_stops_a_foreign_script(tmp_path: Path) -> None:
    page = html.page(*conversation()).replace("</body>", "<script>foreign()</script></body>")
    seen = opened(tmp_path, page)
    assert "Content Security Policy" in "".join(seen.errors)
    assert "foreign is not defined" not in "".join(seen.errors)
