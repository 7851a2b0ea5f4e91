"""`netlab graph`: its forms, where they go, what is asked for that is not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Netlab = Callable[..., "tuple[int, str, str]"]
BEGINNINGS = {"mermaid": "flowchart ", "dot": "graph netlab {", "svg": "<svg "}


@pytest.mark.parametrize("form", BEGINNINGS)
def test_the_lab_is_drawn_in_the_form_asked_for(netlab: Netlab, form: str) -> None:
    code, out, err = netlab("graph", "-o", form)
    assert (code, err) == (0, "")
    assert out.startswith(BEGINNINGS[form])
    for word in ("node2", "10.244.2.0/24", "web-1", "10.244.2.2", "shop/cart-1", "docker0"):
        assert word in out


def test_mermaid_is_the_form_of_stdout(netlab: Netlab) -> None:
    assert netlab("graph").out == netlab("graph", "-o", "mermaid").out


@pytest.mark.parametrize(
    ("name", "words", "form"),
    [
        ("x.svg", (), "svg"),
        ("x.SVG", (), "svg"),
        ("x.dot", (), "dot"),
        ("x.gv", (), "dot"),
        ("x.mmd", (), "mermaid"),
        ("x", (), "mermaid"),
        ("x.svg", ("-o", "dot"), "dot"),
    ],
)
def test_a_files_name_says_the_form(
    netlab: Netlab, tmp_path: Path, name: str, words: tuple[str, ...], form: str
) -> None:
    file = tmp_path / name
    assert netlab("graph", "-w", str(file), *words) == (0, "", "")
    assert file.read_text() == netlab("graph", "-o", form).out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-n", "nope"), 4, "error: namespace 'nope' not found\nhint: namespaces: default, shop\n"),
        (("-w", "/nonexistent/x.svg"), 2, "error: cannot write /nonexistent/x.svg: No such file"),
        (("-w", "x.png"), 2, "error: x.png: its ending says no form\nhint: a name that ends in"),
        (("-o", "png"), 2, "error: Invalid value for '-o'"),
        (("-f", "/nonexistent.yaml"), 2, "/nonexistent.yaml: does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_said(
    netlab: Netlab, words: tuple[str, ...], code: int, said: str
) -> None:
    done = netlab("graph", *words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(said)


def test_one_namespace_and_no_services(netlab: Netlab) -> None:
    shop = netlab("graph", "-n", "shop").out
    assert "shop/cart-1" in shop and "web-1" not in shop
    assert "Services" in netlab("graph").out.replace("; Services", "")
    assert "subgraph services" not in netlab("graph", "--no-services").out


def test_files_are_drawn_without_a_lab() -> None:
    words = ["graph", "-f", "topologies/two-segments.yaml", "-f", "topologies/minimal.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "netlab", *words[:3]], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("segment east", "segment west", "router", "192.168.70.11", "10.244.3.0/24"):
        assert word in done.stdout
    both = subprocess.run(
        [sys.executable, "-m", "netlab", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert (both.returncode, both.stdout) == (2, "")
    assert "a second Lab document" in both.stderr
