"""Numbers in the words of a person."""

from cupyrec.counted import counted, figure


def test_one_and_several():
    assert [counted(number, "step") for number in (0, 1, 2, 1234)] == ["0 steps", "1 step", "2 steps", "1,234 steps"]
    assert (counted(1, "batch", "batches"), counted(2, "batch", "batches")) == ("1 batch", "2 batches")


def test_figures():
    numbers = [0.47123, -3.0, 999_999.5, 1e6, -1.2345e30, float("nan"), float("inf")]
    assert [figure(number) for number in numbers] == [
        "0.4712",
        "-3.0000",
        "999999.5000",
        "1e+06",
        "-1.23e+30",
        "nan",
        "inf",
    ]
