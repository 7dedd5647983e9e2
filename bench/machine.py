"""The machine of a measurement: without it a figure means nothing."""

import os
import platform
from importlib import metadata
from typing import Any

import pycurl

_PACKAGES = ("quicbaton", "aioquic", "qh3", "cryptography", "msgspec", "pycurl")


def facts() -> dict[str, Any]:
    """Return the machine and the versions of everything that takes part."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libcurl": pycurl.version,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except FileNotFoundError:
        pass  # not Linux
    return platform.processor() or platform.machine()
