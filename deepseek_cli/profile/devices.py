"""What models are held against: memory and its bandwidth, of hardware that people have. Makers' figures; peak bandwidth.

`usable` is the share of the memory that weights, KV cache and activations may take. It is a rule of thumb for what a phone's
system leaves to one app (a half), for what Apple's GPUs may wire (three quarters), for a computer beside its desktop (three
quarters) or without one (nine tenths), and for a graphics card beside driver and display (nine tenths).
"""

from __future__ import annotations

import ctypes
import difflib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from deepseek_cli.errors import UsageError
from deepseek_cli.profile.machine import cgroup_limit
from deepseek_cli.spec import parse_size

GB, GIB = 10**9, 1 << 30
THIS, HERE = "this machine", "here"
BUFFER = 48 << 20  # bytes; more than most last caches, less than an estimate may hold
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Device:
    """`bandwidth` is in bytes a second; None where it is not known."""

    name: str
    kind: str
    memory_bytes: int
    usable: float
    bandwidth: int | None

    @property
    def usable_bytes(self) -> int:
        return int(self.memory_bytes * self.usable)


def _device(kind: str, name: str, memory: int, usable: float, bandwidth: float) -> Device:
    return Device(name, kind, memory * GIB, usable, int(bandwidth * GB))


DEVICES = (
    # bus width in bits × transfers a second ÷ 8
    _device("board", "Raspberry Pi 5, 8 GB", 8, 0.9, 17.1),  # LPDDR4X-4267, 32 bits
    _device("phone", "iPhone 15 Pro, 8 GB", 8, 0.5, 51.2),  # LPDDR5-6400, 64 bits
    _device("phone", "iPhone 16, 8 GB", 8, 0.5, 60.0),  # LPDDR5X-7500, 64 bits
    _device("phone", "Android, Snapdragon 8 Gen 3, 12 GB", 12, 0.5, 76.8),  # LPDDR5X-9600, 64 bits
    _device("phone", "Android, Snapdragon 8 Elite, 16 GB", 16, 0.5, 85.3),  # LPDDR5X-10667, 64 bits
    _device("laptop", "Laptop, DDR4-3200, 8 GB", 8, 0.75, 51.2),  # two channels of 64 bits
    _device("laptop", "Laptop, DDR5-5600, 16 GB", 16, 0.75, 89.6),  # two channels of 64 bits
    _device("laptop", "Laptop, DDR5-5600, 32 GB", 32, 0.75, 89.6),
    _device("laptop", "MacBook Air M2, 16 GB", 16, 0.75, 100.0),  # apple.com, technical specifications
    _device("laptop", "MacBook Pro M4 Pro, 48 GB", 48, 0.75, 273.0),
    _device("laptop", "MacBook Pro M4 Max, 128 GB", 128, 0.75, 546.0),
    _device("desktop", "Mac Studio M3 Ultra, 512 GB", 512, 0.75, 819.0),
    _device("gpu", "RTX 4060, 8 GB", 8, 0.9, 272.0),  # nvidia.com, product pages and data sheets
    _device("gpu", "RTX 3060, 12 GB", 12, 0.9, 360.0),
    _device("gpu", "Tesla T4, 16 GB", 16, 0.9, 320.0),
    _device("gpu", "RTX 4090, 24 GB", 24, 0.9, 1008.0),
    _device("gpu", "RTX 5090, 32 GB", 32, 0.9, 1792.0),
    _device("gpu", "A100, 80 GB", 80, 0.9, 2039.0),
    _device("gpu", "H100 SXM, 80 GB", 80, 0.9, 3350.0),
    _device("gpu", "MI300X, 192 GB", 192, 0.9, 5300.0),  # amd.com, data sheet
    _device("server", "8 × H100 SXM, 640 GB", 640, 0.9, 8 * 3350.0),
    _device("server", "8 × H200, 1128 GB", 1128, 0.9, 8 * 4800.0),
)


def find_device(text: str) -> Device:
    """`text` is HERE, a part of the name of one of DEVICES, or a size, all of which may be taken.

    Raises UsageError for what is none of them, or could be several.
    """
    if text == HERE:
        return this_machine()
    found = [device for device in DEVICES if text.lower() in device.name.lower()]
    if len(found) > 1:
        names = "; ".join(device.name for device in found)
        raise UsageError("{text} could be any of {names}.", hint="Write more of the name.", text=text, names=names)
    if found:
        return found[0]
    try:
        size = parse_size(text)
    except UsageError:
        names = "; ".join(_nearest(text) or [device.name for device in DEVICES])
        raise UsageError(
            "{text!r} is neither a device nor a size.",
            hint="Did you mean {names}? A size is like 8GB." if _nearest(text) else "A size is like 8GB. Known are: {names}.",
            text=text,
            names=names,
        ) from None
    return Device(text, "size", size, 1.0, None)


def _nearest(text: str) -> list[str]:
    """Up to three devices whose name, or a maker's part of it, is written almost so."""
    parts = {part.lower().strip(): device.name for device in reversed(DEVICES) for part in device.name.split(",")[:2]}
    return list(dict.fromkeys(parts[part] for part in difflib.get_close_matches(text.lower(), parts, 3, 0.7)))


def this_machine(bandwidth: int | None = None) -> Device:
    """`bandwidth` is measured where it is not given."""
    return replace(memory_here(), bandwidth=bandwidth or read_bandwidth())


def memory_here() -> Device:
    """This machine's memory, within its control group's limit; its bandwidth is not measured."""
    import psutil

    memory = psutil.virtual_memory().total
    return Device(THIS, "here", min(memory, cgroup_limit() or memory), 0.9, None)


def read_bandwidth(threads: Sequence[int] = (1, 2, 4), size: int = BUFFER) -> int | None:
    """Bytes a second that the C library's search for a byte reads, best of some rounds; None where it is not at hand.

    On each of the counts of `threads`, through a buffer of `size` bytes.
    """
    search = _search()
    if not search:
        return None
    buffer = ctypes.create_string_buffer(size)
    ctypes.memset(buffer, 1, size)  # untouched pages would all be the one page of zeros
    return max(_rate(search, buffer, count) for count in threads for _ in range(ROUNDS))


def _search() -> Callable[[ctypes.c_void_p, int, int], object] | None:
    try:
        library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        library.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        return library.memchr
    except (AttributeError, OSError, TypeError):
        return None


def _rate(search: Callable[..., object], buffer: ctypes.Array[ctypes.c_char], threads: int) -> int:
    part, start = len(buffer) // threads, ctypes.addressof(buffer)
    readers = [threading.Thread(target=search, args=(start + i * part, 0, part)) for i in range(threads)]
    begun = time.perf_counter()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return int(len(buffer) / (time.perf_counter() - begun))
