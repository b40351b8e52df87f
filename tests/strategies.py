"""Hypothesis strategies: Criteo lines, good and spoilt."""

from __future__ import annotations

from hypothesis import strategies as st

LABELS = st.sampled_from([b"0", b"1"])

INTEGERS = st.one_of(
    st.just(b""),
    st.integers(-3, 2000).map(lambda value: b"%d" % value),
    st.sampled_from([b"+5", b"-0", b"007"]),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: b"%d" % value),
)

CATEGORIES = st.one_of(
    st.just(b""),
    st.integers(0, 2**32 - 1).map(lambda value: b"%08x" % value),
    st.integers(0, 2**64 - 1).map(lambda value: b"%X" % value),
)

# Cells that are bad in some columns and good in others, or in none.
ODD_CELLS = st.sampled_from(
    [
        *(
            b"1.5",
            b" 3",
            b"3 ",
            b"abc",
            b"-",
            b"+",
            b"--1",
            b"1-",
            b"1e3",
            b"0x1f",
            b"nan",
            b"\xff\xfe",
            b'"1"',
        ),
        *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809"),
        *(
            b"99999999999999999999",
            b"0123456789abcdef",
            b"0123456789abcdef0",
            b"g",
            b"2",
            b"01",
            b"\xef\xbb\xbf1",
        ),
        *(b"\r", b"1\r", b"\r1", b"x" * 50, b"\xd9\xa1", b"/", b":", b"@", b"`", b"G"),
    ]
)


@st.composite
def criteo_rows(draw: st.DrawFn) -> list[bytes]:
    """The 40 cells of a good row."""
    return [
        draw(LABELS),
        *draw(st.lists(INTEGERS, min_size=13, max_size=13)),
        *draw(st.lists(CATEGORIES, min_size=26, max_size=26)),
    ]


@st.composite
def criteo_texts(draw: st.DrawFn, *, spoilt: bool = False, max_rows: int = 8) -> bytes:
    """A whole file of 1 to max_rows lines, each ending in LF or CRLF, the last one perhaps in neither.

    spoilt: some cells are odd, some bytes (never NUL) overwritten, dropped or added.
    """
    variety = draw(st.lists(criteo_rows(), min_size=1, max_size=3))
    rows = [list(row) for row in draw(st.lists(st.sampled_from(variety), min_size=1, max_size=max_rows))]
    if spoilt:
        place = st.tuples(st.integers(0, len(rows) - 1), st.integers(0, 39), ODD_CELLS)
        for row, column, cell in draw(st.lists(place, max_size=4)):
            rows[row][column] = cell
    text = b"".join(b"\t".join(row) + draw(st.sampled_from([b"\n", b"\r\n"])) for row in rows)
    if spoilt:
        spoiler = st.one_of(
            st.sampled_from([b"", b"\n", b"\t", b"\r", b"\n\n", b"\xef\xbb\xbf", b'"', b"\\", b"a", b"7"]),
            st.binary(max_size=3).map(lambda noise: noise.replace(b"\0", b"\x01")),
        )
        for at, dropped, added in draw(
            st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, 2), spoiler), max_size=3)
        ):
            text = text[:at] + added + text[at + dropped :]
    if draw(st.booleans()):
        text = text.removesuffix(b"\n")
    return text or b"\n"
