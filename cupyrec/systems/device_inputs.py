"""The dense features and labels of a batch, brought to where the model is."""

from __future__ import annotations

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice, GpuEvent
from cupyrec.pipeline.gpu_ring import BatchUpload

# While one is being read by the device the next is written by the host.
UPLOADS = 2


class HostInputs:
    """On the CPU: nothing is copied."""

    def put(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch


class GpuInputs:
    """Copies them on the training's own stream: they are a hundredth of what else crosses the link."""

    def __init__(self, device: GpuDevice, dense_features: int) -> None:
        self._device = device
        self._uploads = [(BatchUpload(device, dense_features), GpuEvent(device.runtime)) for _ in range(UPLOADS)]
        self._put = 0

    def put(self, batch: Batch) -> Batch:
        """A batch of the dense features and labels alone, in device memory; valid until the next but one."""
        upload, done = self._uploads[self._put % UPLOADS]
        self._put += 1
        done.synchronize()
        nothing = np.zeros(0, np.int64)
        upload.fill(Batch(batch.dense, nothing, nothing, batch.labels))
        uploaded = upload.put(self._device)
        self._device.record(done)
        return uploaded


def make_inputs(device: Device, dense_features: int) -> HostInputs | GpuInputs:
    """The one for a device."""
    return GpuInputs(device, dense_features) if isinstance(device, GpuDevice) else HostInputs()
