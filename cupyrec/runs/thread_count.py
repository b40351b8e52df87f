"""Whether more threads are asked for than can work at once."""

from __future__ import annotations

from cupyrec.counted import counted
from cupyrec.devices.cpu import usable_cores


def thread_warning(threads: int | None) -> str | None:
    """One line for people where there are more threads than usable cores, else None. threads: None for every core."""
    cores = usable_cores()
    if threads is None or threads <= cores:
        return None
    usable = counted(cores, "usable core")
    return f"warning: --threads {threads} is more than the {usable}, and slower than as many; leave --threads out"
