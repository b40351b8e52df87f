"""Advice as lines: one screen, aligned, and what is uncertain is said to be."""

import dataclasses

import pytest

from cupyrec.advice import policies as advise_policies
from cupyrec.advice import result as advise_result
from cupyrec.advice.result import Advice, PolicyCost, SizeAdvice
from cupyrec.cli.advice_report import POLICIES, WORTH_DOUBLING, describe_advice

COMMAND = "cupyrec train day_0 --system scratchpipe --scratchpad 2%"


def size_of(size, slots, hit_rate, moved, *, full=True, bubbles=0.0):
    costs = {
        "lookahead": PolicyCost(hit_rate, moved, moved, bubbles),
        "lru": PolicyCost(hit_rate / 2, 2 * moved, 2 * moved),
        "static": PolicyCost(0.25, 852_000, 852_000),
        "min": PolicyCost(1.0, 0, 0),
    }
    return SizeAdvice(size, slots, 80 * slots, 11, costs, never_bubbles=slots >= 52_000, full=full)


SIZES = (
    SizeAdvice("100", 100, 8000, 1, {}, never_bubbles=False, full=False),
    size_of("1%", 26_000, 0.5, 1_234_000, bubbles=0.38),
    size_of("2%", 52_000, 0.75, 600_000),
    size_of("50%", 1_300_000, 0.8765, 500_000, full=False),
)
ADVICE = Advice(
    samples=200_000,
    steps=391,
    batch_samples=512,
    lookups_per_step=13_299.4,
    unique_rows_per_step=4757.2,
    most_unique_rows=5835,
    rows=2_600_000,
    rows_used=927_514,
    record_bytes=80,
    pooled_bytes=852_000,
    never_bubbles_rows=52_000,
    sample_rate=1.0,
    counted_steps=196,
    sizes=SIZES,
)


def test_the_whole_screen():
    assert list(describe_advice(ADVICE, COMMAND)) == EXPECTED


def test_fits_on_a_screen():
    sizes = (*SIZES, *(size_of("9", 10**9, 1.0, 999_900_000, bubbles=1.0) for _ in range(5)))
    lines = list(describe_advice(dataclasses.replace(ADVICE, sizes=sizes, rows=10**10, sample_rate=2**-12), COMMAND))
    assert len(lines) <= 27
    assert max(map(len, lines)) <= 120


def test_an_estimate_is_called_one():
    text = "\n".join(describe_advice(dataclasses.replace(ADVICE, sample_rate=1 / 8), COMMAND))
    assert "about 927,514 of 2,600,000 rows are used" in text
    assert "Estimated from 1 row in 8," in text
    assert "Estimated" not in "\n".join(describe_advice(ADVICE, COMMAND))


@pytest.mark.parametrize(
    ("sizes", "rows_used", "expected"),
    [
        (
            SIZES[:3],
            927_514,
            "2% (52,000 rows, 4.2 MB): the largest tried, and each smaller size moves many more bytes.",
        ),
        (SIZES[:3], 50_000, "2% (52,000 rows, 4.2 MB): it holds all rows that are used, and each smaller size"),
        ((size_of("52000", 52_000, 1, 0), SIZES[3]), 927_514, "52000 (4.2 MB): it never bubbles; doubling saves 0%"),
    ],
)
def test_why_a_size_is_recommended(sizes, rows_used, expected):
    lines = list(describe_advice(dataclasses.replace(ADVICE, sizes=sizes, rows_used=rows_used), COMMAND))
    assert lines[-1] == f"  {COMMAND}"
    assert lines[-2].startswith(f"Recommended: --scratchpad {expected}")


def test_where_only_the_first_steps_were_read_the_recommended_size_has_a_margin():
    cut = dataclasses.replace(ADVICE, steps=1, safe_rows=53_000)
    lines = list(describe_advice(cut, COMMAND))
    told = "Read no further than 1 step: later ones may use more rows, and nothing below 53,000 rows is recommended."
    assert told in lines
    assert lines[-2].startswith("Recommended: --scratchpad 50% ")


def test_what_is_worth_doubling_is_what_the_recommendation_goes_by():
    assert WORTH_DOUBLING == advise_result.WORTH_DOUBLING


def test_every_policy_has_its_column():
    assert tuple(POLICIES) == advise_policies.POLICIES


EXPECTED = """\
200,000 samples, 391 steps; a step looks up 13,299 rows, 4,757 different ones, 5,835 at most
927,514 of 2,600,000 rows are used; a row takes 80 bytes, all of them 208 MB
never bubbles from 52,000 rows on, 4.2 MB: no step then waits for room

  ------------ scratchpad ------------  ------------ hits -------------  ----------- bytes a step ----------- steps with
        rows   of all     bytes  ahead  lookahead    lru  static    MIN  lookahead      lru   static      MIN  bubbles
         100    0.00%      8 kB      1  too small: the rows of one step do not fit
      26,000    1.00%    2.1 MB     11      50.0%  25.0%   25.0% 100.0%     2.5 MB   4.9 MB   1.7 MB      0 B      38%
      52,000    2.00%    4.2 MB     11      75.0%  37.5%   25.0% 100.0%     1.2 MB   2.4 MB   1.7 MB      0 B       0%
   1,300,000   50.00%    104 MB     11      87.6%  43.8%   25.0% 100.0%       1 MB     2 MB   1.7 MB      0 B       0%*

Counted over the last 196 steps. hits: share of a step's different rows. bytes: both ways.
ahead: steps that lookahead knows. lru knows the past alone. MIN knows all steps: nothing moves fewer rows.
static: the rows used most are there from the start and stay; other lookups are pooled on the host: 2 x 852 kB cross.
* not full when counting began: these data are too few to show what leaves it in the long run.
All rows that are used fit into 1,300,000: each comes once and stays.

Recommended: --scratchpad 2% (52,000 rows, 4.2 MB): it never bubbles; doubling saves 4% of the bytes (25% is worth it).
  cupyrec train day_0 --system scratchpipe --scratchpad 2%
""".splitlines()
