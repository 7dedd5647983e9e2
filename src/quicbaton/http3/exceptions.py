"""aioquic's exceptions for calls that make no sense, under the same module name."""

from aioquic.h3.exceptions import H3Error, InvalidStreamTypeError, NoAvailablePushIDError

__all__ = ["H3Error", "InvalidStreamTypeError", "NoAvailablePushIDError"]
