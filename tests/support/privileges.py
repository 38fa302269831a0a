"""Root may write everywhere: tests of read-only folders give that up for a while."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

VERSION_3 = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Let the permissions of files hold for this thread, even if it runs as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, now = _Header(VERSION_3, 0), (_Data * 2)()
    if libc.capget(ctypes.byref(header), now):
        raise OSError(ctypes.get_errno(), "capget")
    before = now[0].effective
    now[0].effective = before & ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    if libc.capset(ctypes.byref(header), now):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        now[0].effective = before
        if libc.capset(ctypes.byref(header), now):
            raise OSError(ctypes.get_errno(), "capset")
