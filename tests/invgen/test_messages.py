import time

import pytest

from invgen import messages


def test_nothing_is_said_of_what_is_fast(capsys):
    with messages.announced("building a matrix"):
        pass
    assert capsys.readouterr().err == ""


def test_what_takes_long_is_announced_and_timed_even_if_it_fails(capsys, monkeypatch):
    monkeypatch.setattr(messages, "PATIENCE", 0.01)
    with pytest.raises(ZeroDivisionError), messages.announced("building a matrix"):
        while not capsys.readouterr().err.startswith("invgen: building a matrix, once ..."):
            time.sleep(0.01)
        1 / 0  # noqa: B018
    assert capsys.readouterr().err == "invgen: building a matrix took 0 s\n"
