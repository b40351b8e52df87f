"""Traces: valid JSON that viewers take, at any moment; a disk that is full."""

import errno
import json
import threading

import pytest

from cupyrec.errors import OutputError
from cupyrec.pipeline.trace_file import TraceFile


def boxes(events):
    return [event for event in events if event["ph"] == "X"]


def test_boxes_and_row_names(tmp_path):
    trace = TraceFile(tmp_path / "trace.json")
    began = trace._began
    trace.box("Train", 0, began + 1, began + 1.5)
    trace.box("Plan", 4, began + 1.25, began + 1.75)
    trace.close()
    trace.close()
    events = json.loads((tmp_path / "trace.json").read_text())
    train, plan = boxes(events)
    assert (train["name"], train["ts"], train["dur"]) == ("0", 1e6, 5e5)
    assert (plan["name"], plan["ts"], plan["dur"]) == ("4", 1.25e6, 5e5)
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert (names[train["tid"]], names[plan["tid"]]) == ("Train", "Plan")
    order = {event["tid"]: event["args"]["sort_index"] for event in events if event["name"] == "thread_sort_index"}
    assert order[plan["tid"]] < order[train["tid"]]


def test_a_run_that_died_leaves_what_a_viewer_takes(tmp_path):
    trace = TraceFile(tmp_path / "trace.json")
    trace.box("Train", 0, trace._began, trace._began + 1)
    trace._file.flush()
    # The array form may end anywhere after an event.
    assert len(boxes(json.loads((tmp_path / "trace.json").read_text() + "]"))) == 1
    trace.close()


def test_later_batches_are_left_out(tmp_path):
    trace = TraceFile(tmp_path / "trace.json", most_batches=3)
    for batch in range(10):
        trace.box("Train", batch, trace._began, trace._began + 1)
    trace.close()
    assert [event["name"] for event in boxes(json.loads((tmp_path / "trace.json").read_text()))] == ["0", "1", "2"]


def test_many_threads(tmp_path):
    trace = TraceFile(tmp_path / "trace.json")

    def work(stage):
        for batch in range(300):
            trace.box(stage, batch, trace._began, trace._began + 1)

    threads = [threading.Thread(target=work, args=(f"stage {number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.close()
    events = boxes(json.loads((tmp_path / "trace.json").read_text()))
    assert len(events) == 1500
    assert len({event["tid"] for event in events}) == 5


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="the trace cannot be written: No such file or directory"):
        TraceFile(tmp_path / "nowhere" / "trace.json")


def test_a_disk_that_is_full_is_told_at_the_end(tmp_path):
    trace = TraceFile(tmp_path / "trace.json")

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    trace._file.close()
    trace._file = Full()
    trace.box("Train", 0, trace._began, trace._began + 1)
    trace.box("Train", 1, trace._began, trace._began + 1)
    with pytest.raises(OutputError, match="the trace cannot be written: No space left on device"):
        trace.close()
