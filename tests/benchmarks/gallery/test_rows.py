"""The quick form of each row: its figures keep their bounds, and a picture is written, without a network."""

import pytest

from invgen.benchmarks.gallery import rows


# row 7 shows the floor of a generator
@pytest.mark.filterwarnings("ignore:.* of CSGM do not explain the measurement")
@pytest.mark.filterwarnings("ignore:the Decoder cannot make what was measured")
# row 23 shows what a decoder of twelve numbers leaves out
@pytest.mark.filterwarnings("ignore:the VAE cannot make what was measured")
@pytest.mark.filterwarnings("ignore:.* of LinearisedTDS do not explain the measurement")
@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3, 5, 7, 9, 13, 15, 18, 21, 23])
def test_a_quick_row_keeps_its_bounds(number, tmp_path):
    row = rows.find(number)(tmp_path, True)
    assert row.number == number and row.holds, row.text()
    assert row.files and all(path.stat().st_size > 1000 for path in row.files)
