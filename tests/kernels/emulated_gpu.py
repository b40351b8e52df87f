"""Runs one operation on an emulated GPU."""

from emulated_cuda import EmulatedCuda

from cupyrec.devices.gpu import GpuDevice


def on_emulated_gpu(operation, *arrays, order="ascending"):
    """operation(device, *copies of the arrays on the device); returns what the copies hold afterwards.

    order: of blocks and threads, see cuda_on_cpu.
    """
    device = GpuDevice(EmulatedCuda(thread_order=order), threads=1)
    copies = [device.upload(array) for array in arrays]
    operation(device, *copies)
    return [device.download(copy) for copy in copies]


def same_in_all_orders(orders, operation, *arrays):
    """What on_emulated_gpu returns, after checking that it is the same bits in each of the orders."""
    results = [on_emulated_gpu(operation, *arrays, order=order) for order in orders]
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            assert one.tobytes() == another.tobytes()
    return results[0]
