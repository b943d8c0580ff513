"""The program of a warm Python: an interpreter that has started, and forks a copy of itself for each command.

It runs in the interpreter of the command, not in that of the worker, so it imports nothing of ours, and no module that
a fresh interpreter has not imported, but for `_socket`, which is forgotten in the copy. `workers.runners.warm_python`
compiles this file so that the frame of its module is hidden, and starts it.

The copy returns from `serve` into the last line of this file, and from there all is as in a fresh interpreter: nothing
is above the first frame of the command, and the interpreter itself prints the traceback, finds the exit code and runs
the exit handlers. Whatever the copy cannot do in the same way it leaves to the real interpreter, by `execve`.

Protocol, on a SEQPACKET socket: the program sends `ready` with its version and import path, or `no` with the reason. A
request is the fields of `warm_python._request`, with the descriptors for stdout and stderr. The copy answers `P` and
its pid, the program `E` and the exit status once the copy has ended. The copy is reaped when the worker answers, so
that its pid cannot be another's before.
"""

import os
import sys

TYPE_CHECKING = False  # a name that type checkers know; `typing` and `__future__` are no modules of a fresh interpreter
if TYPE_CHECKING:
    from _socket import socket
    from types import ModuleType
    from typing import Any

_ARGUMENTS = 0
_ENVIRONMENT = 2
_places = [0, 0, 0, 0]  # in memory: begin and end of the arguments, begin and end of the environment


def serve() -> "tuple[Any, ...]":
    """Serve requests; return in the copy only: a function and its arguments, one in each list."""
    modules, importers = set(sys.modules), dict(sys.path_importer_cache)
    for own in (sys.argv[0], sys.path.pop(0)):
        importers.pop(own, None)
    import _socket  # noqa: PLC0415 - after the line above

    for module in set(sys.modules) - modules:
        del sys.modules[module]
    sys.path_importer_cache.clear()
    sys.path_importer_cache.update(importers)
    compile("", "<warm>", "exec")  # the first use makes the types of the syntax tree
    channel = _socket.socket(fileno=int(sys.argv[1]))
    initial = dict(entry.split(b"=", 1) for entry in _read("/proc/self/environ").split(b"\0") if b"=" in entry)
    added = {name: value for name, value in os.environb.items() if initial.get(name) != value}
    problem = _problem(channel.fileno(), initial, added)
    if problem:
        channel.send(b"no\0" + os.fsencode(problem))
        os._exit(0)
    channel.send(b"\0".join([b"ready", b"%d.%d" % sys.version_info[:2], *map(os.fsencode, sys.path)]))
    channel.settimeout(float(sys.argv[2]))
    fields, streams = _next_request(channel)
    while os.fork():
        for stream in streams:
            os.close(stream)
        _follow(channel)
        fields, streams = _next_request(channel)
    return _become(channel, fields, streams, added)


def _next_request(channel: "socket") -> tuple[list[bytes], list[int]]:
    """The next request's fields and descriptors. Ends the program if the worker has ended or has been idle."""
    try:
        data, ancillary, _, _ = channel.recvmsg(1 << 18, 64)
    except OSError:
        data, ancillary = b"", []
    if not data:
        os._exit(0)
    numbers = b"".join(content for _, _, content in ancillary)
    return data.split(b"\0"), [int.from_bytes(numbers[at : at + 4], sys.byteorder) for at in range(0, len(numbers), 4)]


def _follow(channel: "socket") -> None:
    """Report the end of the copy, and reap it when the worker says so. Ends the program if the worker has ended."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    timeout = channel.gettimeout()
    channel.settimeout(None)
    try:
        channel.send(b"E%d" % status)
        if not channel.recv(1):
            os._exit(0)
    except OSError:
        os._exit(0)
    channel.settimeout(timeout)
    os.waitpid(ended.si_pid, 0)


def _problem(channel: int, initial: dict[bytes, bytes], added: dict[bytes, bytes]) -> str:
    """Why copies of this process would differ from fresh interpreters; "" if they would not."""
    try:
        sys._getframe(2)  # 0 is this function, 1 is `serve`
        return "the frame of its program is visible"
    except ValueError:
        pass
    if len(os.listdir("/proc/self/task")) != 1:
        return "it starts threads when it starts"
    if any(map(_is_open, set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, channel})):
        return "it opens files when it starts"
    if set(added) - {b"LC_CTYPE"} or set(initial) - set(os.environb):
        return "it changes its environment when it starts"
    if sys.gettrace() or sys.getprofile() or sys.excepthook is not sys.__excepthook__:
        return "it is traced, or changes `sys.excepthook` when it starts"
    if (sys.stdin, sys.stdout, sys.stderr) != (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        return "it replaces its streams when it starts"
    os.environ.clear()  # before the memory of the environment is overwritten
    shown = b"MIRROR_NEURON_RUN_MARKER=" + initial.get(b"MIRROR_NEURON_RUN_MARKER", b"")
    try:
        _places[:] = map(int, _read("/proc/self/stat").rpartition(b")")[2].split()[45:49])
        _show(_ENVIRONMENT, [shown], 1 << 20)
        return "" if _read("/proc/self/environ").rstrip(b"\0") == shown else "its environment cannot be shown"
    except OSError:
        return "its memory cannot be written to"


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # it was that of the listing
        return False
    return True


def _become(
    channel: "socket",
    fields: list[bytes],
    streams: list[int],
    added: dict[bytes, bytes],
) -> "tuple[Any, ...]":
    """Make the copy what a fresh interpreter is before it runs its command."""
    os.setsid()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    channel.send(b"P%d" % os.getpid())
    channel.close()
    program, folder, count = fields[:3]
    words, entries = fields[3 : 3 + int(count)], fields[3 + int(count) :]
    os.chdir(folder)
    for entry in entries:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    try:
        _show(_ARGUMENTS, words, 4_096)
        _show(_ENVIRONMENT, entries, 4_096)
        for name, value in added.items():
            os.environb.setdefault(name, value)
        return _command([os.fsdecode(word) for word in words])
    except BaseException:  # such as a syntax error: the real interpreter says it in its own way
        os.execve(program, words, dict(entry.split(b"=", 1) for entry in entries))  # noqa: S606


def _command(words: list[str]) -> "tuple[Any, ...]":
    """Set `sys.argv`, `sys.path` and `__main__`; return the function that runs the command, and its arguments."""
    sys.orig_argv[:] = words
    if words[1] == "-m":
        sys.argv[:] = ["-m", *words[3:]]
        sys.path.insert(0, os.getcwd())
        _fresh_main()
        import runpy  # noqa: PLC0415 - as the interpreter does, after it has set the path

        return runpy._run_module_as_main, [words[2]], [True]  # type: ignore[attr-defined]
    if words[1] == "-c":
        code = _compiled(f"{words[2]}\n".encode().decode(), "<string>")
        sys.argv[:] = ["-c", *words[3:]]
        sys.path.insert(0, "")
        main = _fresh_main()
        main.__dict__["__loader__"] = sys.modules["_frozen_importlib"].BuiltinImporter
        return exec, [code], [main.__dict__]
    path = words[1] if words[1].startswith("/") else f"{os.getcwd()}/{words[1]}"
    external = sys.modules["_frozen_importlib_external"]
    if external.PathFinder._path_importer_cache(path) is not None:
        raise ImportError("a folder or an archive")
    source = _read(path)
    if source[:2] == external.MAGIC_NUMBER[:2]:
        raise ImportError("compiled")
    code = _compiled(source, path)
    sys.argv[:] = words[1:]
    sys.path.insert(0, os.path.dirname(os.path.realpath(words[1])))
    main = sys.modules["__main__"]  # the interpreter removes `__file__` from it at the end, as it does for a script
    kept = {name: value for name, value in main.__dict__.items() if name.startswith("__")}
    main.__dict__.clear()
    main.__dict__.update(kept)
    main.__doc__ = None
    main.__file__ = path
    main.__loader__ = external.SourceFileLoader("__main__", path)
    return exec, [code], [main.__dict__]


def _fresh_main() -> "ModuleType":
    """A new `__main__`. The interpreter removes `__file__` from the old one at the end, which is right for scripts."""
    main = type(sys)("__main__")
    main.__annotations__ = {}
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    # Keeps the old one until the interpreter has ended, which goes on to use it: without a reference it crashed.
    os.register_at_fork(after_in_child=sys.modules["__main__"].__dir__)
    sys.modules["__main__"] = main
    return main


def _compiled(source: str | bytes, name: str) -> "Any":
    """Compile *source*. Warnings are printed if that succeeds: else the real interpreter prints them."""
    stderr, kept = sys.stderr, _Kept()
    sys.stderr = kept
    try:
        code = compile(source, name, "exec", 0, True)
    finally:
        sys.stderr = stderr
    stderr.write(kept.text)
    return code


class _Kept:
    text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def _show(place: int, texts: list[bytes], least: int) -> None:
    """Show *texts* to other processes as the arguments or the environment, from *place* in `_places` on.

    A run's processes are found by their environment, to end them. What is too long is cut; what is shorter than *least*
    bytes is filled up, over what was there. Raises OSError.
    """
    start, end = _places[place], _places[place + 1]
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        data = b"".join(text + b"\0" for text in texts)[: end - start - 1]
        os.pwrite(memory, data.ljust(min(end - start, least), b"\0"), start)
    finally:
        os.close(memory)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    any(map(*serve()))
