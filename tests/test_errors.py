"""What a message takes of another error's."""

import pytest

from cupyrec.errors import DataError, ModelError, OutputError, first_line


def test_a_message_takes_one_line():
    assert first_line(OSError("cannot be opened\nDetail: 5")) == "cannot be opened"
    assert first_line(OSError("\n \nlater")) == "later"
    assert first_line(ImportError("\n=====\n  Failed to import CuPy.\n=====\n")) == "Failed to import CuPy."


def test_an_error_without_a_text_is_named():
    assert (first_line(OSError()), first_line(ValueError("\n"))) == ("OSError()", "ValueError('\\n')")


@pytest.mark.parametrize("kind", [DataError, ModelError, OutputError])
def test_a_message_is_one_printable_line(kind):
    """Whatever a file of somebody else names its columns, tensors or optimizer."""
    assert str(kind("column a\nb\x1b[31m\u202e\udc80 of 'é\\'")) == r"column a\nb\x1b[31m\u202e\udc80 of 'é\'"


@pytest.mark.parametrize(
    "name", ["na\u3000me.tsv", "a\u00a0b", "\u0645\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f4bb"]
)
def test_letters_that_control_nothing_stay_as_they_are(name):
    """Spaces and joiners of other scripts: a path in a message can be copied."""
    assert str(DataError("missing", path=name)) == f"{name}: missing"
