#!/usr/bin/env python3
"""Runs a program in whose process io_uring is forbidden, as containers forbid it: forbid.py EPERM|ENOSYS PROGRAM ARGUMENT…

A seccomp filter answers the three system calls of io_uring with the error; it holds for this process and its children,
and nothing of the machine is changed.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
# The numbers are the same on every architecture.
IO_URING = {425: "io_uring_setup", 426: "io_uring_enter", 427: "io_uring_register"}
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERROR = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def instruction(code, value, then=0, otherwise=0):
    return struct.pack("HBBI", code, then, otherwise, value)


def forbid(error):
    numbers = list(IO_URING)
    steps = [instruction(LOAD_WORD, 0)]
    # Each comparison that holds jumps over those that follow it and over the ALLOW.
    steps += [instruction(JUMP_IF_EQUAL, number, then=len(numbers) - at) for at, number in enumerate(numbers)]
    steps += [instruction(RETURN, ALLOW), instruction(RETURN, ERROR | error)]
    program = Program(len(steps), b"".join(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges = libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if no_new_privileges != 0 or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the seccomp filter was not taken")


if __name__ == "__main__":
    forbid(getattr(errno, sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
