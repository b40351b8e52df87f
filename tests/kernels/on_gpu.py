"""Runs one operation on a GPU: an emulated one, or the one that there is."""

from emulated_cuda import EmulatedCuda

from cupyrec.devices.gpu import GpuDevice


def on_gpu(device, operation, *arrays):
    """operation(device, *copies of the arrays on the device); returns what the copies hold afterwards."""
    copies = [device.upload(array) for array in arrays]
    operation(device, *copies)
    return [device.download(copy) for copy in copies]


def on_emulated_gpu(operation, *arrays, order="ascending"):
    """on_gpu on an emulated one. order: of blocks and threads, see cuda_on_cpu."""
    return on_gpu(GpuDevice(EmulatedCuda(thread_order=order), threads=1), operation, *arrays)


def check_same_in_all_orders(orders, operation, *arrays):
    """That on_emulated_gpu returns the same bits in each of the orders."""
    results = [on_emulated_gpu(operation, *arrays, order=order) for order in orders]
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            assert one.tobytes() == another.tobytes()
