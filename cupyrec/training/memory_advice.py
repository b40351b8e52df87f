"""What an error for want of device memory says beside itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cupyrec.errors import DeviceMemoryError, StageError
from cupyrec.training.device_memory_plan import DeviceMemoryPlan


@contextmanager
def memory_advice(plan: DeviceMemoryPlan | None) -> Iterator[None]:
    """Within it such an error says what was planned, and what would take less. plan: None where there is no GPU."""
    try:
        yield
    except (DeviceMemoryError, StageError) as error:
        short = error if isinstance(error, DeviceMemoryError) else error.__cause__
        if plan is None or not isinstance(short, DeviceMemoryError):
            raise
        raise type(error)(f"{error}; {plan.shortage()}") from short
