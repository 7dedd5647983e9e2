"""The process that holds a test's host together: the host's namespaces end with it.

It sets up the host's one network device, whose other end it passes to its parent, and then waits
for its standard input to end. Everything is done with ioctl(2), netdevice(7), so no program is
needed but mount(8).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import msgspec

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8916, 0x891C, 0x8922, 0x8943
_IFF_UP = 0x1
_MTU = 1500
#: Packets that wait until the link's process runs; a few trains would fill the usual 500.
_QUEUE_PACKETS = 10_000
_DEVICE = "wire"
NETMASK = "255.255.0.0"


class HostOrder(msgspec.Struct):
    """The properties of a host."""

    name: str
    #: Its own address, then those that it shares with others.
    addresses: list[str]
    #: The kernel's name for this boot of this host.
    boot_id: str
    #: Folder -> size: file systems that are full sooner than others.
    small_disks: dict[str, int] = {}


def set_mtu(size: int) -> None:
    """Let the device of the host that this runs on take packets of that size at most."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _configure(sock, _SIOCSIFMTU, _DEVICE, struct.pack("i", size))


def main() -> None:
    """Set up, pass the device on through the socket in argv, and stay."""
    order = msgspec.json.decode(sys.argv[1], type=HostOrder)
    socket.sethostname(order.name)
    # A reader of this knows which processes' monotonic clocks compare.
    boot_id = Path(sys.argv[3])
    boot_id.write_text(f"{order.boot_id}\n", encoding="ascii")
    _mount("--bind", str(boot_id), "/proc/sys/kernel/random/boot_id")
    for folder, size in order.small_disks.items():
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    wire = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(wire, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        own, *shared = order.addresses
        _configure(sock, _SIOCSIFMTU, _DEVICE, struct.pack("i", _MTU))
        _configure(sock, _SIOCSIFTXQLEN, _DEVICE, struct.pack("i", _QUEUE_PACKETS))
        _configure(sock, _SIOCSIFADDR, _DEVICE, _address(own))
        _configure(sock, _SIOCSIFNETMASK, _DEVICE, _address(NETMASK))
        _bring_up(sock, _DEVICE)
        _bring_up(sock, "lo")
        for number, address in enumerate(shared):
            # An alias of the loopback device: ours to receive and to send from, as behind a
            # balancer that leaves the address alone ("direct server return").
            _configure(sock, _SIOCSIFADDR, f"lo:{number}", _address(address))
            _configure(sock, _SIOCSIFNETMASK, f"lo:{number}", _address("255.255.255.255"))
    with socket.socket(fileno=int(sys.argv[2])) as channel:
        socket.send_fds(channel, [b"up"], [wire])
        os.close(wire)
        channel.recv(1)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _configure(sock: socket.socket, request: int, device: str, value: bytes) -> None:
    fcntl.ioctl(sock, request, struct.pack("16s24s", device.encode(), value))


def _address(text: str) -> bytes:
    return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(text))


def _bring_up(sock: socket.socket, device: str) -> None:
    flags = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s24x", device.encode()))
    (now,) = struct.unpack_from("h", flags, 16)
    _configure(sock, _SIOCSIFFLAGS, device, struct.pack("h", now | _IFF_UP))


if __name__ == "__main__":
    main()
