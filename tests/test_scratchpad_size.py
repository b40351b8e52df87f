"""Sizes of a scratchpad: the three ways to say them, and the limits."""

import pytest

from cupyrec.errors import ConfigError
from cupyrec.scratchpad_size import MOST_SLOTS, scratchpad_slots


@pytest.mark.parametrize(
    ("size", "slots"),
    [
        ("10%", 100),
        ("0.1%", 1),
        (" 12.5 % ", 125),
        ("33.39%", 333),
        ("100%", 1000),
        ("250%", 1000),
        ("7", 7),
        ("1_000", 1000),
        ("5000", 1000),
        ("640B", 10),
        ("703 B", 10),
        ("6.4kB", 100),
        ("1KiB", 16),
        ("8GB", 1000),
    ],
)
def test_slots_for_a_thousand_rows_of_64_bytes(size, slots):
    assert scratchpad_slots(size, 1000, 64) == slots


@pytest.mark.parametrize("size", ["0", "0%", "0.09%", "63B", "0GB"])
def test_a_scratchpad_without_a_row(size):
    with pytest.raises(ConfigError, match=f"a scratchpad of {size} holds no row .1,000 rows of 64 bytes"):
        scratchpad_slots(size, 1000, 64)


@pytest.mark.parametrize(
    "size",
    [
        "",
        "GB",
        "ten",
        "-1",
        "10%%",
        "1,000",
        "3 rows",
        "1.5 rows",
        "nan%",
        "\u0661\u0660",
        "1_",
        "1__0",
        "9" * 5000,
        "9" * 5000 + "%",
    ],
)
def test_what_is_no_size(size):
    with pytest.raises(ConfigError, match="is not the size of a scratchpad: give bytes with a unit"):
        scratchpad_slots(size, 1000, 64)


def test_slots_are_numbered_in_32_bits():
    assert scratchpad_slots("100%", 2**40, 64) == MOST_SLOTS
