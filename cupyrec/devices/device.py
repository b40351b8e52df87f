"""What may be given where a device or a stream is asked for."""

from __future__ import annotations

from typing import TypeAlias

from cupyrec.devices.cpu import CpuDevice, CpuStream
from cupyrec.devices.gpu import GpuDevice, GpuStream

Device: TypeAlias = CpuDevice | GpuDevice
# A device is the stream on which it trains.
Stream: TypeAlias = CpuDevice | CpuStream | GpuStream
