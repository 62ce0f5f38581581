import pytest

from invgen.errors import FileError, OptionError
from invgen.validation import limits


def test_refuses_what_is_above_the_limit_and_names_the_setting(monkeypatch):
    limits.check_size(limits.DEFAULT, "head.nii")
    with pytest.raises(FileError, match=r"head.nii asks for 3 GiB .* 2 GiB .* INVGEN_MAX_BYTES=3221225472"):
        limits.check_size(3 * 2**30, "head.nii")
    monkeypatch.setenv(limits.SETTING, "1000")
    with pytest.raises(FileError, match="more than the 1000 bytes"):
        limits.check_size(1001, "head.nii")


@pytest.mark.parametrize("text", ["2G", "-1", "0", "1e9"])
def test_a_wrong_setting_is_said(monkeypatch, text):
    monkeypatch.setenv(limits.SETTING, text)
    with pytest.raises(OptionError, match="INVGEN_MAX_BYTES must be a positive whole number"):
        limits.max_bytes()
