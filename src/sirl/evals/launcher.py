"""What runs a model's program, inside the namespaces that `sirl.evals.sandbox` makes. It imports nothing of sirl.

    python -I launcher.py ROOT CPU AS FSIZE NOFILE NPROC      (standard input: LENGTH of the source, source, word)

This process hides the user's files, gives its rights away, says that it is ready and starts a child that runs the
program. It reads the word after that, so that neither the word nor the way out is anything that the program can reach,
and repeats it only where the child passed its last line.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import sys
import types
from pathlib import Path

READY = b"+"
"""Written to standard output before the program starts: without it, nothing can be said about the program."""

LIMITS = ("CPU", "AS", "FSIZE", "NOFILE", "NPROC")
SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
"""What Python needs besides its own folders, to be seen and not to be changed."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def main(root: str, *limits: str) -> None:
    """Run the program on standard input; repeat the word there if it passed its last line."""
    source = read_exactly(0, int(read_exactly(0, 12)))
    if root:
        hide_files(Path(root))
    give_rights_away()
    os.write(1, READY)
    reader, writer = os.pipe()
    token = secrets.token_bytes(16)
    child = os.fork()
    if child == 0:
        try:
            run(source, writer, token, tuple(map(int, limits)))
        finally:
            os._exit(1)
    os.set_blocking(reader, False)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BlockingIOError):
        if status == 0 and os.read(reader, 64) == token:
            os.write(1, read_exactly(0, 32))


def run(source: bytes, writer: int, token: bytes, limits: tuple[int, ...]) -> None:
    """The child: a program with nothing open but the pipe on which its end is told."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.closerange(3, writer)
    os.closerange(writer + 1, 4096)
    for name, value in zip((*LIMITS, "CORE"), (*limits, 0), strict=True):
        limit = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    module = sys.modules["program"] = types.ModuleType("program")
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(source.decode("utf-8", "replace"), "program", "exec"), module.__dict__)
    os.write(writer, token)
    os._exit(0)


def hide_files(root: Path) -> None:
    """Make an empty folder the root of all files, with the interpreter and the system's libraries in it, read-only."""
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=755")
    shown = {*SYSTEM, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    for path in sorted(map(Path, shown)):
        if not path.exists() or any(str(parent) in shown for parent in path.parents):
            continue
        place = root / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            place.symlink_to(path.readlink())
            continue
        place.mkdir(exist_ok=True) if path.is_dir() else place.touch()
        mount(str(path), place, "", MS_BIND | MS_REC)
        if path.is_dir():
            mount("", place, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | locked(path))
    for name in ("tmp", "program"):
        (root / name).mkdir(mode=0o777, exist_ok=True)
    os.chroot(root)
    os.chdir("/program")  # not /tmp, where the interpreter itself may lie


def locked(path: Path) -> int:
    """Flags of a mount that a namespace of other users may not take off."""
    flags = os.statvfs(path).f_flag
    return sum(flag for flag in (MS_NODEV, 8, 1024, 2048) if flags & flag)  # 8: noexec; noatime, nodiratime


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """mount(2). Raises `OSError`."""
    if libc.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def give_rights_away() -> None:
    """No capability, none by starting another program, and no other process may look into this one."""
    if not sys.platform.startswith("linux"):
        return
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    for failed in (
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        libc.capset(header, none),
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "cannot give rights away")


def read_exactly(fd: int, size: int) -> bytes:
    """So many bytes, or all up to the end."""
    parts = b""
    while len(parts) < size and (more := os.read(fd, size - len(parts))):
        parts += more
    return parts


if __name__ == "__main__":
    main(*sys.argv[1:])
