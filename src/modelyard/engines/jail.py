"""The child process of a sandbox: gives up what it could do harm with, checks that it has, and then opens the model.

Linux only: namespaces (man 7 namespaces) take away the network, other processes and every file but the interpreter's and
the model's; resource limits bound time, memory and files; a seccomp filter (man 2 seccomp) refuses new processes,
programs and sockets. Run by sandbox.py with `python -I`; speaks lines of JSON on its first standard streams.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x20000000, 0x40000000, 0x10000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

# Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
REFUSED = {
    "x86_64": {
        "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "mount": 165, "umount2": 166,
        "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175,
        "finit_module": 313, "delete_module": 176, "open_by_handle_at": 304, "process_vm_readv": 310,
        "process_vm_writev": 311, "pidfd_open": 434, "pidfd_getfd": 438, "personality": 135, "fsopen": 430,
        "open_tree": 428, "move_mount": 429, "memfd_create": 319, "shmget": 29, "msgget": 68, "semget": 64,
        "mq_open": 240, "swapon": 167, "reboot": 169, "syslog": 103,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242,
        "execve": 221, "execveat": 281, "ptrace": 117, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "unshare": 97, "setns": 268, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "keyctl": 219,
        "add_key": 217, "request_key": 218, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
        "kexec_load": 104, "kexec_file_load": 294, "init_module": 105, "finit_module": 273, "delete_module": 106,
        "open_by_handle_at": 265, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_open": 434,
        "pidfd_getfd": 438, "personality": 92, "fsopen": 430, "open_tree": 428, "move_mount": 429,
        "memfd_create": 279, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "swapon": 224,
        "reboot": 142, "syslog": 116,
    },
}  # fmt: skip
ARCHITECTURE = {"x86_64": (0xC000003E, 56, 435), "aarch64": (0xC00000B7, 220, 435)}  # audit number, clone, clone3

libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _prctl(option: int, first: Any, second: Any = 0) -> None:
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in (first, second, 0, 0)]
    _call("prctl", option, *words)


def leave(root: Path, shown: list[str], model: str) -> str:
    """Move into namespaces of our own, in which only the shown paths and the model can be seen, read-only.

    Returns where the model is then."""
    kinds = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        try:
            _call("unshare", kinds)
        except PermissionError:
            _own_users(kinds, user, group)
    else:
        _own_users(kinds, user, group)
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("none", str(root), "tmpfs", MS_NOSUID | MS_NODEV, b"size=1m,mode=755")
    for device in DEVICES:
        _show(device, root, device, MS_NOSUID)
    for path in shown:
        _show(path, root, path, MS_NOSUID | MS_NODEV)
    place = f"/model/{os.path.basename(model)}"
    _show(model, root, place, MS_NOSUID | MS_NODEV)
    _mount(None, str(root), None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, b"size=1m,mode=755")
    os.chdir(root)
    pivot_root = REFUSED[platform.machine()]["pivot_root"]  # the C library has no function of that name
    _call("syscall", ctypes.c_long(pivot_root), b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    return place


def _own_users(kinds: int, user: int, group: int) -> None:
    _call("unshare", kinds | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), options)


def _show(path: str, root: Path, name: str, flags: int) -> None:
    source = Path(path)
    target = root / name.lstrip("/")
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    if target.is_symlink() or not source.exists():
        return
    kept = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | 8 | 1024 | 2048)  # those a user namespace may not drop
    _mount(path, str(target), None, MS_BIND | MS_REC)
    _mount(None, str(target), None, MS_BIND | MS_REMOUNT | MS_RDONLY | flags | kept)


def bound(limits: dict[str, int]) -> None:
    """Set the limits on time, memory, files and threads."""
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)  # noqa: PLW2901 - what may be asked for
        resource.setrlimit(kind, (value, value))


def drop() -> None:
    """Become nobody, without capabilities, and never gain any."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    _call("capset", header, nothing)
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # once more: becoming someone else undoes it


def refuse() -> None:
    """Install the filter: new processes, programs, sockets and the kernel's rarer doors answer EPERM."""
    machine = platform.machine()
    audit, clone, clone3 = ARCHITECTURE[machine]
    load, equal, greater, anded, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, fault = 0x7FFF0000, 0x80000000, 0x00050000
    steps: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill),
        (load, 0, 0, 0), (greater, 0, 1, 0x40000000), (give, 0, 0, kill),
        (equal, 0, 1, clone3), (give, 0, 0, fault | errno.ENOSYS),
        (equal, 0, 4, clone), (load, 0, 0, 16), (anded, 1, 0, CLONE_THREAD), (give, 0, 0, fault | errno.EPERM),
        (give, 0, 0, allow),
    ]  # fmt: skip
    for number in sorted(REFUSED[machine].values()):
        steps += [(equal, 0, 1, number), (give, 0, 0, fault | errno.EPERM)]
    steps.append((give, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(code)))
    _prctl(PR_SET_SECCOMP, 2, ctypes.byref(program))


def held(hidden: list[str]) -> list[str]:
    """What is certain now, tried rather than believed."""
    found = []
    if _fails(socket.socket) and _fails(lambda: socket.socket(socket.AF_UNIX)):
        found.append("network")
    if not any(os.path.exists(path) for path in hidden) and _fails(lambda: open("/x", "wb")):  # noqa: SIM115
        found.append("files")
    if _fails(_child) and _fails(lambda: os.execv("/bin/true", ["true"])):  # noqa: S606 - which must fail
        found.append("processes")
    limits = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)
    if all(resource.getrlimit(kind)[1] != resource.RLIM_INFINITY for kind in limits):
        found.append("limits")
    if os.geteuid() != 0 and _fails(lambda: os.setuid(0)):
        found.append("privileges")
    return found


def _child() -> None:
    if os.fork() == 0:
        os._exit(0)


def _fails(call: Callable[[], Any]) -> bool:
    try:
        call()
    except OSError:
        return True
    return False


def isolate(order: dict[str, Any]) -> list[str]:
    """Give up everything that can be given up here; returns what is certain, and why the rest is not."""
    why = []
    try:
        order["model"] = leave(Path(order["root"]), order["shown"], order["model"])
        _apart()
    except OSError as error:
        why.append(str(error))
    steps: tuple[Callable[[], None], ...] = (partial(bound, order["limits"]), drop, refuse)
    for step in steps:
        try:
            step()
        except (OSError, ValueError, KeyError) as error:
            why.append(str(error))
    return [*held(order["hidden"]), *(f"! {reason}" for reason in why)]


def _apart() -> None:
    """Go on as the first process of the new process namespace; this one waits for it, or for the other side to go."""
    child = os.fork()
    if child == 0:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    gone = select.poll()
    gone.register(0, 0)  # tells only that nobody writes any more
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    for stream in range(3, 16):
        with contextlib.suppress(OSError):
            os.close(stream)
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if gone.poll(500):
            os.kill(child, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Isolate, open the model, and answer until the other side closes."""
    source = os.fdopen(os.dup(0), "rb")
    target = os.fdopen(os.dup(1), "wb")
    order = json.loads(source.readline())
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)

    def answer(value: Any) -> None:
        target.write(json.dumps(value).encode() + b"\n")
        target.flush()

    certain = isolate(order)
    answer({"isolation": certain})
    if not json.loads(source.readline() or b"null"):
        return
    opening = _told(answer, lambda: importlib.import_module("modelyard.engines.opening"))
    model = _told(answer, lambda: opening.opened(order["model"], order)) if opening else None
    if model is None:
        return
    answer({"opened": True})
    for line in source:
        asked = json.loads(line)
        _told(answer, lambda: answer(opening.answered(model, asked)))  # noqa: B023 - called at once


def _told(answer: Callable[[Any], None], call: Callable[[], Any]) -> Any:
    """What the call gives; its error, whatever a foreign model raises, is told to the other side."""
    try:
        found = call()
    except BaseException as error:  # noqa: BLE001 - the model's own code raises anything
        with contextlib.suppress(OSError):
            answer({"error": f"{type(error).__name__}: {error}"[:500]})
        return None
    return found


if __name__ == "__main__":
    sys.stdout.flush()
    main()
