import threading

import pytest

from cupyrec.datasets.read_ahead import read_ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cupyrec-read-ahead"]


class Counting:
    """Counts what has been asked of it, and knows whether it was closed."""

    def __init__(self, stop: int):
        self.made, self.closed, self.thread = 0, False, None
        self._stop = stop

    def __iter__(self):
        self.thread = threading.current_thread()
        try:
            while self.made < self._stop:
                self.made += 1
                yield self.made
        finally:
            self.closed = True


@pytest.mark.parametrize("depth", [1, 2, 100])
@pytest.mark.parametrize("items", [0, 1, 5])
def test_gives_all_items_in_order(depth, items):
    assert list(read_ahead(range(items), depth)) == list(range(items))
    assert readers() == []


def test_works_in_another_thread_and_closes_the_iterable_there():
    source = Counting(3)
    assert list(read_ahead(source, 2)) == [1, 2, 3]
    assert source.thread is not threading.current_thread()
    assert source.closed


def test_starts_nothing_before_the_first_item_is_asked_for():
    source = Counting(3)
    ahead = read_ahead(source, 2)
    assert source.made == 0
    assert readers() == []
    ahead.close()


@pytest.mark.parametrize("depth", [1, 3])
def test_never_runs_further_ahead_than_its_depth_and_one(depth):
    source = Counting(1000)
    ahead = read_ahead(source, depth)
    for taken in range(1, 50):
        next(ahead)
        assert source.made <= taken + depth + 1
    ahead.close()
    # Closing makes room once more, for what was in the making.
    assert source.made <= 49 + depth + 2


@pytest.mark.parametrize("taken", [1, 4])
def test_closing_early_ends_the_thread(taken):
    source = Counting(1_000_000)
    ahead = read_ahead(source, 2)
    for _ in range(taken):
        next(ahead)
    ahead.close()
    assert readers() == []
    assert source.closed
    assert source.made < 100


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_the_consumer_ends_the_thread(kind):
    source = Counting(1_000_000)

    def consume():
        for item in read_ahead(source, 2):
            if item == 3:
                raise kind

    with pytest.raises(kind):
        consume()
    # The generator is garbage once the traceback is; CPython closes it then.
    assert readers() == []
    assert source.closed


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_iterable_arrives_after_the_items_before_it(kind):
    def source():
        yield 1
        yield 2
        raise kind("broken")

    ahead = read_ahead(source(), 5)
    assert next(ahead) == 1
    assert next(ahead) == 2
    with pytest.raises(kind, match="broken"):
        next(ahead)
    assert readers() == []


def test_something_that_is_no_iterable_is_said_to_the_consumer():
    with pytest.raises(TypeError):
        next(read_ahead(5, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [0, -1])
def test_refuses_a_depth_below_1_at_once(depth):
    with pytest.raises(ValueError, match="depth must be at least 1"):
        read_ahead([], depth)
