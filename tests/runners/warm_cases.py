"""Commands that run in a warm interpreter and in a fresh one: what each case shows, it shows on its streams.

What differs by its nature is not printed: process ids, addresses, times, the hash seed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.runners.warm_endings import ENDINGS

#: imported by the cases of `-m`, and next to the scripts
HELPERS = {
    "helper.py": "import sys\nvalue = __name__, __file__, sys._getframe(1) is not None\n",
    "package/__init__.py": "print('init', __name__)\n",
    "package/__main__.py": "import sys\nprint(sys.argv, __package__, __spec__.name, sorted(globals()))\nsys.exit(6)\n",
    "package/failing.py": "def f():\n    raise OSError('gone')\n\nf()\n",
}


@dataclass(frozen=True)
class Case:
    words: Sequence[str]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def script(text: str, *arguments: str, **environment: str) -> Case:
    return Case(["main.py", *arguments], {"main.py": textwrap.dedent(text)}, environment)


SHOW = """
import sys, os
print(sys.argv, sys.orig_argv, sys.path, sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix)
print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix, sys.version)
print(sorted(sys.modules))
print(sorted(sys.path_importer_cache, key=str), sys.path_hooks and len(sys.path_hooks), len(sys.meta_path))
print([name for name in globals()], __name__, __doc__, __package__, __spec__, __annotations__, type(__loader__))
print(globals().get("__file__"), globals().get("__cached__"), __builtins__, getattr(__loader__, "name", ""))
print(sys.modules["__main__"].__dict__ is globals(), locals() is globals())
print(getattr(__loader__, "path", ""), sys.gettrace(), sys.getprofile(), hasattr(sys, "last_value"), dir(sys))
print(os.getcwd(), list(os.environ.items()), os.environb == os.environ._data)
print(sys.modules["posix"].environ == os.environ._data, os.get_exec_path())
print(os.getpid() == os.getsid(0) == os.getpgrp())
print(sorted(os.listdir("/proc/self/fd")), os.umask(0o22), os.nice(0), len(os.listdir("/proc/self/task")))
print(open("/proc/self/cmdline", "rb").read(40).rstrip(b"\\0"), open("/proc/self/comm").read())
print(open("/proc/self/environ", "rb").read().rstrip(b"\\0").split(b"\\0"))
"""
STREAMS = """
import sys, os
for name in ("stdin", "stdout", "stderr"):
    s = getattr(sys, name)
    print(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.newlines, s.isatty(), s.fileno())
    print(s is getattr(sys, f"__{name}__"), type(s.buffer), type(s.buffer.raw), s.buffer.raw.closefd, s.readable())
    print(s.writable(), s.seekable(), os.get_inheritable(s.fileno()), os.fstat(s.fileno()).st_mode, s.buffer.raw.mode)
    print(os.get_blocking(s.fileno()))
print(repr(sys.stdin.read()), sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""
SIGNALS = """
import signal
print([(s, str(signal.getsignal(s))) for s in sorted(signal.valid_signals())], signal.pthread_sigmask(0, []))
WANTED = ("SigB", "SigI", "SigC", "SigP", "ShdP", "NoNew")
print([line for line in open("/proc/self/status") if line.startswith(WANTED)])
print(signal.getitimer(signal.ITIMER_REAL), signal.sigpending(), signal.set_wakeup_fd(-1))
"""
EXIT = "import sys, os, signal, threading, atexit\natexit.register(print, 'at exit')\nprint('begun')\n"
CASES: dict[str, Case] = {
    "state": script(SHOW, "a", "", "b c", "--flag=ä"),
    "state with -c": Case(["-c", SHOW, "a", "-c"]),
    "state with -m": Case(["-m", "show", "a"], {"show.py": SHOW}),
    "state in the C locale": script(SHOW + STREAMS, LC_ALL="C"),
    "state in the POSIX locale without LANG": script(SHOW + STREAMS, LANG=""),
    "state in a locale that is missing": script(SHOW + STREAMS, LC_ALL="xx_YY.ISO-8859-1"),
    "a variable of the run": script(SHOW, MIRROR_NEURON_INPUT_FILE="x=y", MN_INPUT_FILE="", EMPTY="", X="a\nb"),
    "a time zone": script("import time\nprint(time.tzname, time.localtime(0).tm_hour)", TZ="Asia/Tokyo"),
    "limits": script("import resource as r\nprint([r.getrlimit(n) for n in range(16)], r.getrusage(1).ru_maxrss > 0)"),
    "settings": script(
        """
        import sys, gc, threading, faulthandler, locale, warnings
        print(sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold(), gc.get_debug())
        print(gc.callbacks, gc.get_freeze_count(), gc.garbage, faulthandler.is_enabled())
        print(locale.setlocale(locale.LC_ALL))
        print(warnings.filters, threading.main_thread() is threading.current_thread(), len(threading.enumerate()))
        print(threading.main_thread().name, threading.get_native_id() == __import__("os").getpid(), exit, quit)
        """
    ),
    "streams": script(STREAMS),
    "streams with -c": Case(["-c", STREAMS]),
    "much output in turns": script(
        """
        import sys, os
        for n in range(3000):
            print('o' * 77)
            print('e', n, file=sys.stderr)
            os.write(1, b'raw\\n')
        """
    ),
    "not utf-8": script(
        "import sys\nsys.stdout.buffer.write(b'\\xff\\0')\nprint('\\udcff', file=sys.stderr)\nprint('\\udcff')"
    ),
    "stdin": script("print(repr(__import__('sys').stdin.read()))\ninput()"),
    "stdout closed by name": script("import sys\nprint('a')\nsys.stdout.close()\nprint('b')"),
    "stdout closed by number": script("import os\nprint('a', flush=True)\nos.close(1)\nprint('b')"),
    "stderr closed by number": script("import os\nos.close(2)\n1/0"),
    "stdout replaced": script(
        "import sys, io\nsys.stdout = io.StringIO()\nprint('a')\nsys.stderr.write(sys.stdout.getvalue())"
    ),
    "signals": script(SIGNALS),
    "signals with -m": Case(["-m", "show"], {"show.py": SIGNALS}),
    "handler": script(
        "import signal, os\nsignal.signal(15, lambda *a: print(a[0], a[1].f_code.co_name))\nos.kill(os.getpid(), 15)"
    ),
    "alarm": script("import signal\nsignal.alarm(1)\nsignal.pause()"),
    **{
        f"killed by {n}": script(f"import os\nprint('lost')\nos.kill(os.getpid(), {n})\nprint('not reached')")
        for n in (1, 2, 3, 6, 9, 13, 15, 25)
    },
    "interrupted with -m": Case(["-m", "show"], {"show.py": "def f():\n    raise KeyboardInterrupt\nf()\n"}),
    "interrupted with -c": Case(["-c", "import atexit\natexit.register(print, 'bye')\nraise KeyboardInterrupt('x')"]),
    "interrupted and handled": script(
        "try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n    print('handled')"
    ),
    **{
        f"end by {end}": script(EXIT + end)
        for end in (
            "sys.exit()",
            "sys.exit(0)",
            "sys.exit(3)",
            "sys.exit(263)",
            "sys.exit(-1)",
            "sys.exit(2**40)",
            "sys.exit(True)",
            "sys.exit('why')",
            "sys.exit([1, 'é'])",
            "raise SystemExit(4, 5)",
            "exit(7)",
            "os._exit(4)",
            "1/0",
            "raise SystemExit from ValueError()",
            "raise BaseException('base')",
            "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])",
            "raise KeyError('a') from OSError(2, 'b')",
            "os.abort()",
            "os.execv('/bin/echo', ['echo', 'executed'])",
            "atexit.register(lambda: 1/0)",
            "atexit.register(sys.exit, 5)",
            "atexit.register(lambda: print(__file__))",
            "atexit.register(os._exit, 9)",
            "sys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno); 1/0",
            "sys.excepthook = lambda *a: sys.exit(8); 1/0",
            "sys.excepthook = lambda *a: [][1]; 1/0",
            "del sys.excepthook; 1/0",
            "threading.Thread(target=sys.exit, args=(3,)).start()",
            "threading.Thread(target=lambda: 1/0).start()",
            "threading.excepthook = lambda a: print(a.exc_type); threading.Thread(target=lambda: 1/0).start()",
        )
    },
    "objects are finalized": script(
        """
        import sys, weakref
        class Loud:
            def __init__(self, name): self.name = name
            def __del__(self): print("del", self.name, sys is None)
        a, _b, loop = Loud("a"), Loud("_b"), Loud("loop")
        loop.itself = loop
        sys.kept = Loud("in sys")
        class Slots:
            __slots__ = ()
            def __del__(self): print("del slots")
        slots = Slots()
        ref = weakref.ref(a, lambda r: print("callback"))
        fin = weakref.finalize(a, print, "finalize")
        def gen():
            try: yield
            finally: print("generator closed")
        g = gen(); next(g)
        f = open("unclosed.txt", "w"); f.write("kept")
        failing = type("Failing", (), {"__del__": lambda self: 1/0})()
        """
    ),
    "an unclosed file in a cycle with -c": Case(
        ["-c", "f = open('out', 'w'); f.write('x' * 9); l = [f]; l.append(l); del f, l"]
    ),
    "traceback": script(
        """
        import traceback, inspect, sys, logging
        def f(n):
            if n: f(n - 1)
            else: traceback.print_stack(); raise ValueError("é\\n")
        print(len(inspect.stack()), sys._getframe().f_back)
        logging.basicConfig(format="%(filename)s %(funcName)s %(lineno)d %(message)s %(process)s"[:50])
        logging.warning("hi")
        try: sys._getframe(1)
        except ValueError as error: print(error)
        try: f(2)
        except ValueError: traceback.print_exc()
        exec("f(1)")
        """
    ),
    "traceback with -c": Case(["-c", "import traceback\ntraceback.print_stack()\ndef f(): 1/0\nf()"]),
    "traceback with -m": Case(["-m", "package.failing"]),
    "traceback of a helper": script("import package.failing"),
    "endless recursion": script("def f(): f()\nf()"),
    "warnings": script(
        """
        import warnings
        warnings.warn('one')
        warnings.warn('two', stacklevel=2)
        warnings.warn('d', DeprecationWarning)
        def f(): warnings.warn('three', stacklevel=2)
        f()
        print(1 is 1, '\\d')
        """
    ),
    "a syntax error": script("x = 1\nprint('never')\ndef f(:\n"),
    "a syntax error with warnings": script("print(1 is 1)\nx = (\n"),
    "a syntax error with -c": Case(["-c", "x = ("]),
    "a syntax error with -m": Case(["-m", "show"], {"show.py": "x = ("}),
    "an indentation error": script("if 1:\nx\n"),
    "a null byte": Case(["main.py"], {"main.py": b"print(1)\n\0\n"}),
    "a wrong encoding": Case(["main.py"], {"main.py": b"print('\xe9')\n"}),
    "an unknown encoding": Case(["main.py"], {"main.py": b"# coding: nope\nprint(1)\n"}),
    "latin-1": Case(["main.py"], {"main.py": b"# coding: latin-1\nprint(ascii('\xe9'))\n1/0 # \xe9\n"}),
    "a byte order mark": Case(["main.py"], {"main.py": b"\xef\xbb\xbfprint(__file__)\r\nprint('''a\r\nb''')\r\n1/0"}),
    "an empty script": script(""),
    "a future import": script("from __future__ import annotations\ndef f(x: nope): pass\nprint(f.__annotations__)"),
    "a docstring": script("'''Doc.'''\nx: int = 1\nprint(__doc__, __annotations__)"),
    "a missing script": Case(["missing.py", "a"]),
    "a missing module": Case(["-m", "missing"]),
    "a package": Case(["-m", "package", "x"]),
    "a package without a main module": Case(["-m", "json"]),
    "a module of the library": Case(["-m", "json.tool", "--help"]),
    "a folder": Case(["package"]),
    "a script in a folder": Case(["package/show.py", "a"], {"package/show.py": SHOW}),
    "a script by another way": Case(["./package/../main.py"], {"main.py": SHOW}),
    "a script without a suffix": Case(["program"], {"program": "import helper\nprint(helper.value, __file__)"}),
    "a compiled script": Case(
        ["-c", "import py_compile, runpy; print(runpy.run_path(py_compile.compile('helper.py'))['value'])"]
    ),
    "unusual text with -c": Case(["-c", "print('ä', '''\n  x''')  # no end"]),
    "nothing with -c": Case(["-c", ""]),
    "imports": script(
        """
        import helper, package, json, random, _socket, socket
        print(helper.value, _socket.__spec__ is not None)
        print(sorted(n for n in vars(_socket) if n[0] != '_')[:9], socket.gethostname() != '')
        """
    ),
    "a module of the folder hides one of the library": Case(
        ["main.py"], {"main.py": "import token\nprint(token.mine)", "token.py": "mine = 1"}
    ),
    "inspection": script(
        """
        import inspect, pickle
        class A: pass
        def f(): return 1
        print(inspect.getsource(f), pickle.loads(pickle.dumps(A())).__class__, A.__module__, inspect.getfile(A))
        """
    ),
    "arguments are refused": script(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('x', type=int)\np.parse_args()", "no"
    ),
    "tests": script(
        """
        import unittest
        class T(unittest.TestCase):
            def test_a(self): assert 1
        unittest.main(verbosity=0, argv=['x', '-q'], exit=False)
        print('done')
        """
    ),
    "threads": script(
        """
        import os, threading, time, concurrent.futures as futures, _thread, queue
        done = queue.Queue()
        ended = threading.Event()
        def late(): ended.wait(); print("late", threading.current_thread().name)
        threading.Thread(target=late, name="one").start()
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        with futures.ThreadPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, 2])), threading.active_count())
        _thread.start_new_thread(done.put, (1,)); print(done.get())
        threading.Thread(target=lambda: [time.sleep(0.05), os.kill(os.getpid(), 2)]).start()
        try: time.sleep(60)
        except KeyboardInterrupt: print("interrupted in the main thread")
        ended.set()
        """
    ),
    "asyncio": script(
        """
        import asyncio
        async def main():
            p = await asyncio.create_subprocess_exec('sh', '-c', 'exit 3')
            print(await p.wait())
        asyncio.run(main())
        """
    ),
    "a timer": script("import threading\nthreading.Timer(0.05, print, ['timer']).start()\nprint('main ends')"),
    "fork": script(
        """
        import os, sys
        print("before", end=" ", flush=True)
        if os.fork() == 0:
            print("child", os.getppid() == os.getsid(0)); sys.exit(5)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        """
    ),
    "a subprocess": script(
        """
        import subprocess, sys
        text = 'import os, sys; print(sys.argv, list(os.environ))'
        print(subprocess.run([sys.executable, '-c', text], capture_output=True, text=True))
        print(subprocess.run('exit 4; cat', shell=True, stdin=0).returncode)
        print(subprocess.getoutput('env; ls /proc/self/fd'))
        """
    ),
    **{
        f"multiprocessing by {method}": script(
            f"""
            import multiprocessing as mp, os
            def square(n): return n * n, __name__, mp.current_process().name == "MainProcess"
            def fail(): raise ValueError("in the child")
            if __name__ == "__main__":
                ctx = mp.get_context("{method}")
                with ctx.Pool(2) as pool: print(sorted(pool.map(square, range(4)))[3][0])
                q = ctx.Queue(); p = ctx.Process(target=q.put, args=({{"a": 1}},)); p.start(); print(q.get()); p.join()
                with ctx.Manager() as m: print(m.list([1]))
                p = ctx.Process(target=exit, args=(7,)); p.start(); p.join(); print(p.exitcode)
                print(mp.get_start_method(), mp.current_process())
            """
        )
        for method in ("fork", "spawn", "forkserver")
    },
    **{name: Case(["main.py"], {"main.py": text}) for name, text in ENDINGS.items()},
}
