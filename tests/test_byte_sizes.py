"""Sizes as people read and write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.byte_sizes import format_bytes, parse_bytes
from cupyrec.errors import ConfigError


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1049, "1 kB"),
        (1050, "1.1 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1 MB"),
        (1_700_000_000, "1.7 GB"),
        (8 * 10**9, "8 GB"),
        (999_960_000_000, "1 TB"),
        (2 * 10**18, "2000 PB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_format(size_bytes, text):
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GB", 8 * 10**9),
        (" 8 gb ", 8 * 10**9),
        ("1.5 GB", 1_500_000_000),
        (".5MB", 500_000),
        ("1.1TB", 1_100_000_000_000),
        ("2.kB", 2000),
        ("512", 512),
        ("512B", 512),
        ("0", 0),
        ("0.3", 0),
        ("64KiB", 65_536),
        ("2gib", 2 * 2**30),
        ("123456789012345678901B", 123456789012345678901),
    ],
)
def test_parse(text, size_bytes):
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GB", "8G", "-1GB", "+1GB", "1e9", "8 GB free", "8,5GB", "nan", "inf", ".", "٣GB", "1..2GB", "9" * 5000],
)
def test_what_is_no_size_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"is not a size: give a number and a unit, such as 8GB") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 10**18))
def test_what_is_formatted_parses_to_nearly_the_same(size_bytes):
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.051)
