"""The reduced form of row 19, which needs nothing but the library."""

import pytest

from invgen.benchmarks.gallery.rows import find


@pytest.mark.slow
def test_programs_are_found_from_their_tests(tmp_path):
    row = find(19)(tmp_path, True)
    solved, far = row.figures
    assert solved.value == 1.0
    # 200 000 draws of a prior under which the rarest answer has a share of 1e-4: 20 of it, and a quarter of variation
    assert far.value < 0.25
    assert (tmp_path / "row19.png").stat().st_size > 5000
