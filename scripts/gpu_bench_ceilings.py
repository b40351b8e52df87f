"""What the machine can do: the rates that all else is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu_bench_report import Section
from gpu_bench_scale import Scale
from gpu_bench_timing import gb_s, graph_ms, streams_ms, tflop_s

from cupyrec.config import PRECISIONS
from cupyrec.devices.gpu import GpuDevice

COPIES = 8


def measure_ceilings(section: Section, scale: Scale, device: GpuDevice) -> None:
    """All items of the section."""
    section.measure("copies", 10, lambda: copies(scale, device))
    section.measure("matmul", 15, lambda: matrix_products(scale, device))


def copies(scale: Scale, device: GpuDevice) -> dict[str, Any]:
    """Copies of large blocks: within device memory, bytes read and written; over the link, one way and both."""
    size = scale.copy_bytes
    host_in, host_out = (device.page_locked(size, np.uint8) for _ in range(2))
    device_in, device_out = device.empty(size, np.uint8), device.empty(size, np.uint8)
    host_in[:] = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    device.upload(host_in, device_out)
    into, out = device.stream("in"), device.stream("out")

    def many(stream: Any, source: Any, target: Any) -> Any:
        def work() -> None:
            for _ in range(COPIES):
                stream.copy(source, target)

        return stream, work

    inward, outward = many(into, host_in, device_in), many(out, device_out, host_out)
    (within_ms,) = streams_ms(device, [many(device, device_out, device_in)])
    (in_ms,), (out_ms,) = streams_ms(device, [inward]), streams_ms(device, [outward])
    both_in_ms, both_out_ms = streams_ms(device, [inward, outward])
    moved = COPIES * size
    return {
        "block_bytes": size,
        "copy_device_gb_s": gb_s(2 * moved, within_ms),
        "in_gb_s": gb_s(moved, in_ms),
        "out_gb_s": gb_s(moved, out_ms),
        "both_in_gb_s": gb_s(moved, both_in_ms),
        "both_out_gb_s": gb_s(moved, both_out_ms),
        "copied_right": bool(np.array_equal(host_out, host_in) and np.array_equal(device.download(device_in), host_in)),
    }


def matrix_products(scale: Scale, device: GpuDevice) -> dict[str, Any]:
    """One large product of random matrices in each precision."""
    n = scale.matrix_size
    random = np.random.default_rng(1)
    A, B = (device.upload(random.random((n, n), np.float32) - np.float32(0.5)) for _ in range(2))
    out = device.empty((n, n))
    values: dict[str, Any] = {"size": n}
    before = device.precision
    for precision in PRECISIONS:
        device.precision = precision
        ms = graph_ms(device, lambda: device.matmul(A, B, out), 3)
        values[f"matmul_{precision}_tflop_s"] = tflop_s(2 * n**3, ms)
    device.precision = before
    return values


def rates_of(ceilings: dict[str, Any]) -> dict[str, float] | None:
    """All rates that the floors need; None where one was not measured."""
    rates = {key: value for item in ceilings.values() for key, value in item.items() if key.endswith("_s")}
    wanted = {"copy_device_gb_s", "both_in_gb_s", "both_out_gb_s", *(f"matmul_{each}_tflop_s" for each in PRECISIONS)}
    return rates if all(rates.get(each, 0) > 0 for each in wanted) else None
