"""How commands end: what is left to do, to be freed and to be written then.

Not among them: a profile function that is still set at the end. In Python 3.11 it sees one more return.
"""

from __future__ import annotations

import textwrap

_LOUD = """
import gc, os, sys, weakref, atexit
class Loud:
    def __init__(self, name): self.name = name
    def __del__(self): print("del", self.name, flush=True)
"""
_ENDINGS = {
    "nothing": "print('x')",
    "in the main module": "loud = Loud('main')",
    "in a cycle": "a = Loud('cycle'); a.a = a",
    "in another module": "os.loud = Loud('os')",
    "in the builtins": "__builtins__.loud = Loud('builtins')",
    "in a default": "def f(x=Loud('default')): pass",
    "in a class": "class A: loud = Loud('class')",
    "in a closure": "def f(x): return lambda: x\ng = f(Loud('closure'))",
    "in an exit handler": "atexit.register(print, Loud('handler').name, Loud('argument'))",
    "in a traceback": "def f():\n    loud = Loud('frame')\n    1/0\nf()",
    "in the cause of an exit": "try: raise ValueError(Loud('cause'))\nexcept ValueError as e: sys.exit(3)",
    "in an exit code": "sys.exit(Loud('code'))",
    "in a thread's values": "import threading; local = threading.local(); local.loud = Loud('local')",
    "in a context": "import contextvars; v = contextvars.ContextVar('v'); v.set(Loud('context'))",
    "in the arguments": "sys.argv.append(Loud('argv'))",
    "in a cache": "import functools; f = functools.cache(lambda: Loud('cache')); f()",
    "after a collection": "loud = Loud('collected'); gc.collect()",
    "after a freeze": "loud = Loud('frozen'); gc.collect(); gc.freeze()",
    "among frozen ones": "loud = Loud('frozen'); gc.freeze(); gc.unfreeze()",
    "without collections": "gc.disable(); a = Loud('cycle'); a.a = a; del a",
    "among many": "kept = [[] for _ in range(70_000)]; loud = Loud('many')",
    "among some": "kept = [[] for _ in range(9_000)]; loud = Loud('some')",
    "many in the end": "louds = [Loud('same') for _ in range(300)]",
    "unknown to the collector": (
        "class I(int):\n    __slots__ = ()\n    def __del__(self): print('del I')\ni = I(10**9)"
    ),
    "a later method": "class A: pass\na = A()\nA.__del__ = lambda self: print('late')",
    "a reference's callback": "class A: pass\na = A(); r = weakref.ref(a, print if 0 else lambda r: print('called'))",
    "a reference's function": "class A: pass\na = A(); r = weakref.ref(a, lambda r, p=print: p('called'))",
    "a finalizer": "class A: pass\na = A(); weakref.finalize(a, print, 'finalized')",
    "a finalizer that is not for the exit": "class A: pass\na = A(); weakref.finalize(a, print, 'no').atexit = False",
    "a generator": "def g():\n    try: yield\n    finally: print('closed')\ni = g(); next(i)",
    "a coroutine": "async def f(): pass\nc = f()",
    "an asynchronous generator": "async def f():\n    yield\ng = f()",
    "a file": "f = open('out', 'w'); f.write('text')",
    "a file with warnings": "import warnings; warnings.simplefilter('always'); f = open('out', 'w'); f.write('text')",
    "a writer": "import csv; w = csv.writer(open('out', 'w')); w.writerow([1, 2])",
    "a compressed file": "import gzip; f = gzip.GzipFile('out', 'w', mtime=0); f.write(b'text')",
    "an archive": "import zipfile; z = zipfile.ZipFile('out', 'w'); z.writestr(zipfile.ZipInfo('a'), 'b')",
    "a log": "import logging; logging.basicConfig(filename='out'); logging.error('text')",
    "a buffered log": (
        "import logging.handlers as h, logging; m = h.MemoryHandler(9, target=logging.FileHandler('out'))\n"
        "logging.root.addHandler(m); logging.warning('text')"
    ),
    "a temporary file": "import tempfile; f = tempfile.NamedTemporaryFile(dir='.')",
    "a temporary folder": "import tempfile; d = tempfile.TemporaryDirectory(dir='.'); print(len(os.listdir()))",
    "a database": (
        "import sqlite3; c = sqlite3.connect('out'); c.execute('create table t (a)'); print(c.in_transaction)"
    ),
    "a dbm": "import dbm.dumb; d = dbm.dumb.open('out', 'n'); d['a'] = 'b'",
    "a shelf": "import shelve; d = shelve.open('out.shelf'); d['a'] = 1; print(type(d))",
    "a map of a file": "import mmap; m = mmap.mmap(-1, 10); m[:2] = b'ab'",
    "text of the C library": "import ctypes; ctypes.CDLL(None).puts(b'from C')",
    "a process": "import subprocess; p = subprocess.Popen(['true']); p.wait()",
    "a process that runs": (
        "import subprocess, warnings; warnings.simplefilter('always'); p = subprocess.Popen(['sleep', '0'])"
    ),
    "a socket": "import socket; a, b = socket.socketpair()",
    "a pool of threads": "from concurrent.futures import ThreadPoolExecutor as T; t = T(1); t.submit(print, 'done')",
    "a daemon thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start(); a = Loud(1)"
    ),
    "a fork": "loud = Loud('both')\npid = os.fork()\nif pid: print(os.waitpid(pid, 0)[1])\nelse: sys.exit(4)",
    "a fork without anything": (
        "pid = os.fork()\nif pid: print(os.waitpid(pid, 0)[1])\nelse: print('child'); sys.exit(4)"
    ),
    "handlers run early": (
        "atexit.register(print, 'early'); atexit._run_exitfuncs(); print('goes on'); loud = Loud('end')"
    ),
    "handlers cleared": "atexit.register(print, 'never'); atexit._clear(); loud = Loud('end')",
    "no handler and no object": "atexit._clear(); sys.exit(5)",
    "a handler registers another": "atexit.register(lambda: atexit.register(print, 'second'))",
    "a handler makes an object": "atexit.register(lambda: setattr(sys, 'loud', Loud('late')))",
    "a full disk": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "a full disk for errors": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2); 1/0",
    "a pipe without a reader": "r, w = os.pipe(); os.close(r); os.dup2(w, 1); print('lost')",
    "a stream of its own": (
        "class S:\n"
        "    def write(self, t): os.write(1, t.encode())\n"
        "    def flush(self): os.write(1, b'flush')\n"
        "sys.stdout = S()"
    ),
    "no streams": "sys.stdout = sys.stderr = None",
    "deleted streams": "del sys.stdout, sys.stderr",
    "a wrapped stream": "import io; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-16'); print('é')",
    "a configured stream": "sys.stdout.reconfigure(encoding='latin-1', line_buffering=True); print('é')",
    "a hook for what fails": (
        "sys.unraisablehook = lambda u: os.write(1, str(u.exc_value).encode())\n"
        "class A:\n"
        "    def __del__(self): 1/0\n"
        "a = A()"
    ),
    "a traced end": "sys.settrace(lambda *a: os.write(1, b'.') and None)\ndef f(): pass\natexit.register(f)",
    "a strange class": (
        "class M(type):\n"
        "    __mro__ = __dict__ = property(lambda c: print('looked'))\n"
        "class A(metaclass=M): pass\n"
        "a = A()"
    ),
    "a strange object": (
        "class A:\n"
        "    __class__ = property(lambda s: print('looked'))\n"
        "    def __eq__(s, o): print('compared')\n"
        "a = A()"
    ),
    "a strange module": "class M:\n    def __getattr__(s, n): print('got', n)\nsys.modules['strange'] = M()",
    "no module": "sys.modules['none'] = None; sys.modules.pop('_weakref')",
    "no modules": "sys.modules.clear()",
    "a number in the end": "sys.exit(2**31)",
    "a false number": "sys.exit(False)",
    "a number of its own": "class N(int): pass\nsys.exit(N(6))",
    "an exit of its own": "class E(SystemExit):\n    code = property(lambda s: print('asked') or 7)\nraise E",
    "an exit without a code": "e = SystemExit(); del e.code; raise e",
    "an exit in a group": "raise BaseExceptionGroup('g', [SystemExit(3)])",
    "an interruption of its own": "class K(KeyboardInterrupt): pass\nraise K('k')",
}
ENDINGS = {f"left at the end: {name}": _LOUD + textwrap.dedent(text) for name, text in _ENDINGS.items()}
