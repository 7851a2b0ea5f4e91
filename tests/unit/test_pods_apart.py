"""Work in a thread of its own."""

from __future__ import annotations

import threading

import pytest

from netlab.pods.apart import apart


def test_result_comes_from_another_thread() -> None:
    assert apart(threading.get_ident) != threading.get_ident()


def test_exception_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 // 0)
