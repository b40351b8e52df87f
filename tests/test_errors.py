"""What a message takes of another error's."""

from cupyrec.errors import first_line


def test_a_message_takes_one_line():
    assert first_line(OSError("cannot be opened\nDetail: 5")) == "cannot be opened"
    assert first_line(OSError("\n \nlater")) == "later"


def test_an_error_without_a_text_is_named():
    assert (first_line(OSError()), first_line(ValueError("\n"))) == ("OSError()", "ValueError('\\n')")
