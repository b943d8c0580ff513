"""Run this package as a program: the supervisor of a runtime node, or Celery's command line.

    python -P .../workers/__main__.py mn worker ...   the supervisor, see `workers.node.program`
    python -P .../workers/__main__.py celery ...      Celery, as with `python -m celery ...`

The file is started by its path, and it loads the package from its own folder. `workers` is a common name: an import by
name may find a package of the user's project, or of another distribution.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Final, NoReturn

__distribution__ = "mirrorneuron"  # `mn worker` reads this line: another distribution may install a file of this name

WORKER: Final = ("-A", "workers", "worker")  #: how the supervisor starts a worker
FOLDER: Final = os.path.dirname(os.path.abspath(__file__))


def main() -> int:
    """Run what `sys.argv` names; return the exit code."""
    load_package()
    import_module("mirrorneuron.processes.private_memory").keep_private()  # first: the environment holds passwords
    words = sys.argv[1:]
    if words[:2] == ["mn", "worker"]:
        return int(import_module("workers.node.program").main(words[2:]))
    # On SIGHUP a Celery worker executes `python` with `sys.argv`, so without the word "celery" and without -P.
    sys.argv[1:] = words = words[1:] if words[:1] == ["celery"] else words
    import_module("workers.celery_overrides.quiet_tasks").log_tasks_at_debug_only()
    if tuple(words[:3]) == WORKER:
        run_worker(words[3:])
    import_module("celery.__main__").main()
    return 0


def run_worker(options: list[str]) -> NoReturn:
    """Run `celery -A workers worker` with *options*, without Celery's other commands and their plugins.

    These, Flower and a shell among them, are a third of what a worker imports, and stay in the memory of its processes.
    Source: celery 5.7 `__main__.py`; `bin/celery.py`, `celery`.
    """
    import_module("celery").maybe_patch_concurrency()
    command = import_module("celery.bin.worker").worker
    app, no_color = import_module("workers.tasks").app, bool(os.environ.get("NO_COLOR"))
    context = import_module("celery.bin.base").CLIContext(app=app, no_color=no_color, workdir=None)
    command.main(options, prog_name="celery worker", obj=context, auto_envvar_prefix="CELERY_WORKER")
    raise AssertionError("click exits with the worker's exit code")


def load_package() -> None:
    """Make the package in the folder of this file the module `workers`, and let its imports of `mirrorneuron` work."""
    sys.path[:] = [entry for entry in sys.path if entry != FOLDER]  # Python puts it there when -P is not given
    root = os.path.dirname(FOLDER)
    if root not in sys.path:
        sys.path.append(root)  # last: nothing in this folder may hide an installed module
    spec = spec_from_file_location("workers", os.path.join(FOLDER, "__init__.py"), submodule_search_locations=[FOLDER])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["workers"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    sys.exit(main())
