from types import SimpleNamespace

import pytest

from jaxseq.errors import UserError
from jaxseq.option_checks import check_range, option

CONFIG = SimpleNamespace(
    batch_size=0, share=1.0, rate=float("inf"), front_end=SimpleNamespace(hop=3)
)


def test_what_is_in_range_passes():
    check_range("data", CONFIG, "batch_size", "share", "front_end.hop", least=0, most=3)
    check_range("data", CONFIG, "front_end.hop", above=2, below=4)


@pytest.mark.parametrize(
    ("name", "bounds", "message"),
    [
        ("batch_size", {"least": 1}, "--data.batch-size is 0; it must be at least 1"),
        ("batch_size", {"above": 0}, "--data.batch-size is 0; it must be above 0"),
        ("share", {"least": 0, "below": 1}, "is 1.0; it must be at least 0 and below 1"),
        ("front_end.hop", {"most": 2}, "--data.front-end.hop is 3; it must be at most 2"),
        ("rate", {"least": 0}, "--data.rate is inf; it must be finite and at least 0"),
    ],
)
def test_what_is_not_is_named_as_on_the_command_line(name, bounds, message):
    with pytest.raises(UserError) as caught:
        check_range("data", CONFIG, name, **bounds)
    assert str(caught.value).endswith(message)


def test_nan_is_in_no_range():
    with pytest.raises(UserError, match=r"--model\.rate is nan; it must be finite"):
        check_range("model", SimpleNamespace(rate=float("nan")), "rate", least=0)


def test_an_option_of_no_section():
    assert option("", "num_steps") == "--num-steps"
