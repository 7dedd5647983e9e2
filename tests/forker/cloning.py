"""What the forker's clones need of Linux that Python does not have."""

from __future__ import annotations

import ctypes
import os

_SYS_CLONE3 = 435
_CLONE_PARENT = 0x8000
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x200000, 0x1000000
_PR_GET_TID_ADDRESS = 40
#: The interpreter keeps its lock during a call.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Arguments(ctypes.Structure):
    """Those of clone3(2)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid"),
            *("exit_signal", "stack", "stack_size", "tls"),
        )
    )


def clone() -> int:
    """As os.fork, but the child is one of our parent's. For a process with one thread; OSError
    where the kernel has no such thing."""
    arguments = _Arguments(flags=_CLONE_PARENT)
    # Where the C library keeps the thread's number, which its own fork sets.
    address = ctypes.c_void_p()
    if not _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) and address.value:
        arguments.flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
        arguments.child_tid = address.value
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_libc.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), size))
    if not pid:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid


def enter(pid: int, namespaces: list[str]) -> None:
    """From here on this process is in another's namespaces: setns(2)."""
    folder = f"/proc/{pid}/ns"
    # All of them first: with the mounts /proc is another.
    files = [os.open(f"{folder}/{name}", os.O_RDONLY) for name in map(_file, namespaces)]
    for file in files:
        if _libc.setns(file, 0):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        os.close(file)


def _file(namespace: str) -> str:
    return {"mount": "mnt"}.get(namespace, namespace)


def show_command_line(command: list[str]) -> None:
    """As /proc/PID/cmdline and `ps` have it: proc_pid_stat(5), arg_start and arg_end."""
    with open("/proc/self/stat", encoding="ascii") as file:
        begin, end = map(int, file.read().rpartition(")")[2].split()[45:47])
    room = end - begin
    text = b"\0".join(map(os.fsencode, command))[: room - 1]
    ctypes.memmove(begin, text.ljust(room, b"\0"), room)
