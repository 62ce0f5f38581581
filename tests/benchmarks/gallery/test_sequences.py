"""The reduced form of row 19, which needs nothing but the library."""

from invgen.benchmarks.gallery.rows import find


def test_programs_are_found_from_their_tests(tmp_path):
    row = find(19)(tmp_path, True)
    solved, far = row.figures
    assert solved.value == 1.0
    assert far.value < 1e-12  # more particles than programs, all different: exact to rounding
    assert (tmp_path / "row19.png").stat().st_size > 5000
