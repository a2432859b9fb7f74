"""A slow network between network namespaces of one machine, for as long as a block runs.

Each member has a namespace with one interface. What it sends is held to a rate by the kernel (a
token bucket, `tc qdisc tbf`) and then handed by a delay line in this process to the member it is
for. The delay line is here because `netem`, which delays in the kernel, is a module that small
kernels leave out. Needs Linux, root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

_TUN = Path("/dev/net/tun")
_SET_INTERFACE = 0x400454CA  # TUNSETIFF
_TAP, _NO_HEADER = 0x0002, 0x1000  # IFF_TAP, IFF_NO_PI
_MTU = 9000  # the larger the frames, the fewer pass through Python
_BURST = "16kb"  # at least one frame
_QUEUE = "16mb"  # long enough that nothing is dropped
_LONGEST_FRAME = 65536


def missing() -> str | None:
    """What this machine lacks for the emulation, or None."""
    if os.geteuid() != 0:
        return "it must run as root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing: install iproute2"
    return None if _TUN.exists() else f"{_TUN} is missing"


class EmulatedNetwork:
    """Members with addresses of their own, joined by links of one rate and delay.

    Args:
        members: count.
        megabits: of a link a second, in each direction.
        latency: seconds that a frame is on its way, beside what its bytes take.
    """

    def __init__(self, members: int, megabits: float, latency: float) -> None:
        self._megabits = megabits
        self._latency = latency
        self._tag = f"es{os.getpid() % 100000}"
        self._numbers = range(members)
        self._cleanup = ExitStack()
        self._taps: list[int] = []
        self._stop, self._stopping = os.pipe()

    def __enter__(self) -> EmulatedNetwork:
        """Make namespaces and links, and start the delay line."""
        with ExitStack() as undo:
            undo.callback(os.close, self._stop)
            undo.callback(os.close, self._stopping)
            for number in self._numbers:
                _run("ip", "netns", "add", self.namespace(number))
                undo.callback(_run, "ip", "netns", "delete", self.namespace(number))
                self._taps.append(self._link(number))
                undo.callback(os.close, self._taps[-1])
            line = threading.Thread(target=self._forward, name="delay line", daemon=True)
            line.start()
            undo.callback(line.join)
            undo.callback(os.write, self._stopping, b"x")
            self._cleanup = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything again."""
        self._cleanup.close()

    def namespace(self, number: int) -> str:
        """Name of a member's namespace."""
        return f"{self._tag}n{number}"

    def interface(self, number: int) -> str:
        """Name of its interface."""
        return f"{self._tag}t{number}"

    def address(self, number: int) -> str:
        """Its IP address."""
        return f"10.213.7.{number + 1}"

    def inside(self, number: int, *command: str) -> list[str]:
        """A command as one that runs in a member's namespace."""
        return ["ip", "netns", "exec", self.namespace(number), *command]

    def start(
        self, number: int, command: list[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a process in a member's namespace."""
        return subprocess.Popen(self.inside(number, *command), env={**os.environ, **environment})

    def _link(self, number: int) -> int:
        """A member's interface; the file that its frames are read from and written to."""
        name, space = self.interface(number), self.namespace(number)
        tap = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, _SET_INTERFACE, struct.pack("16sH", name.encode(), _TAP | _NO_HEADER))
        _run("ip", "link", "set", name, "address", _hardware(number), "netns", space)

        def inside(*command: str) -> None:
            _run(*self.inside(number, *command))

        inside("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        inside("ip", "link", "set", "lo", "up")
        inside("ip", "address", "add", f"{self.address(number)}/24", "dev", name)
        inside("ip", "link", "set", name, "mtu", str(_MTU), "up")
        for other in self._numbers:
            if other != number:
                neighbour = [self.address(other), "lladdr", _hardware(other), "dev", name]
                inside("ip", "neighbour", "add", *neighbour)
        rate = ["rate", f"{self._megabits}mbit", "burst", _BURST, "limit", _QUEUE]
        inside("tc", "qdisc", "add", "dev", name, "root", "tbf", *rate)
        return tap

    def _forward(self) -> None:
        """Hand every frame to the member it is for when its time has come."""
        waiting: deque[tuple[float, int, bytes]] = deque()
        inputs = [self._stop, *self._taps]
        while True:
            due = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select(inputs, [], [], due)
            if self._stop in ready:
                return
            for tap in ready:
                try:
                    while True:
                        frame = os.read(tap, _LONGEST_FRAME)
                        # The last byte of the hardware address is the member's number.
                        if frame[:5] == _PREFIX and frame[5] < len(self._taps):
                            arrival = time.monotonic() + self._latency
                            waiting.append((arrival, self._taps[frame[5]], frame))
                except BlockingIOError:
                    pass
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, tap, frame = waiting.popleft()
                os.write(tap, frame)


_PREFIX = bytes((0x02, 0x0E, 0x5A, 0x00, 0x00))


def _hardware(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in (*_PREFIX, number))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
