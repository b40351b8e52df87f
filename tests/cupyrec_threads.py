"""Which threads of cupyrec a test has begun."""

import gc
import threading

# As the test began: a model that an earlier one has loaded, and that something still holds, keeps its threads.
_before = set()


def note_threads():
    """Called as each test begins."""
    _before.clear()
    _before.update(threading.enumerate())


def cupyrec_threads(prefix="cupyrec-"):
    """Those with such a name that are there since the test began; garbage is collected first."""
    gc.collect()
    there = [thread for thread in threading.enumerate() if thread not in _before]
    return [thread for thread in there if thread.name.startswith(prefix)]
