"""The CT speed table has its rows; what they say is for people to read."""

import math

import torch

from invgen.benchmarks.studies import ct_speed


def test_table_and_printout(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("INVGEN_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    monkeypatch.setattr(ct_speed, "PROBLEMS", ((16, 4, 2),))
    rows = list(ct_speed.table(ct_speed.PROBLEMS, rounds=2))
    assert [row["operation"] for row in rows] == ["forward", "adjoint", "prox"]
    assert {"astra", "matrix", "uneven", "skimage"} < rows[0].keys() and "cg to 1e-5" in rows[2]
    assert all(math.isfinite(row["ms"]) for row in rows)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(ct_speed, "table", lambda: rows)
    monkeypatch.setattr(ct_speed, "SIZE", (32, 8))
    ct_speed.main([])
    assert "16 px, 4 x 2" in capsys.readouterr().out
