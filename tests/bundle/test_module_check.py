"""The Python source of modules is checked without importing it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mirrorneuron.bundle.load import JobBundle, load
from mirrorneuron.errors import ManifestError

AGENT = "from mirrorneuron import Agent\n"
HANDLE = "    def handle(self, message, context): pass\n"


def write(folder: Path, module: str, files: dict[str, str], source: str | None = None) -> Path:
    config: dict[str, Any] = {"module": module, "module_source": source}
    nodes = [{"node_id": "a", "agent_type": "module", "config": config}]
    raw = {"manifest_version": "1.0", "graph_id": "g", "entrypoints": ["a"], "nodes": nodes}
    for name, text in files.items():
        path = folder / "payloads" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (folder / "manifest.json").write_text(json.dumps(raw))
    return folder


def problem(folder: Path, text: str, module: str = "m:Step") -> str:
    """The error about payloads/m.py with this *text*; "" if the bundle is valid without a warning."""
    try:
        bundle: JobBundle = load(write(folder, module, {"m.py": text}))
    except ManifestError as error:
        (issue,) = error.issues
        assert issue.path == "nodes[0].config.module"
        return f"{issue.message} ({issue.hint})"
    assert bundle.warnings == ()
    return ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{AGENT}class Stepp(Agent):\n{HANDLE}", 'payloads/m.py: has no class Step (did you mean "Stepp"?)'),
        ("", "payloads/m.py: has no class Step ()"),
        (f"{AGENT}\nclass Step(Agent:\n{HANDLE}", "payloads/m.py: line 3: syntax error: "),
        ("a\0b", "payloads/m.py: "),
        (f"class Step:\n{HANDLE}", "payloads/m.py: class Step is not a subclass of mirrorneuron.Agent"),
        (f"class Step(object):\n{HANDLE}", "payloads/m.py: class Step is not a subclass of mirrorneuron.Agent"),
        ("def Step(): pass", "payloads/m.py: Step is a function, not a class"),
        (
            f"{AGENT}class Step(Agent):\n    async def handle(self, message, context): pass",
            "payloads/m.py: line 3: Step.handle is async, which is not supported yet (use a plain def)",
        ),
        (
            f"{AGENT}class Step(Agent):\n    def handle(self, message, context):\n        yield 1",
            "payloads/m.py: line 3: Step.handle is a generator (use context.emit instead of yield)",
        ),
        (
            f"{AGENT}class Step(Agent):\n    def handel(self, message, context): pass",
            'payloads/m.py: class Step has no method handle (did you mean "handel"?)',
        ),
        (
            "import mirrorneuron\nclass Step(mirrorneuron.Agent):\n    x = 1",
            "payloads/m.py: class Step has no method handle (write def handle(self, message, context))",
        ),
        (
            f"{AGENT}class Step(Agent):\n    def handle(self, message): pass",
            "payloads/m.py: line 3: Step.handle cannot be called with a message and a context",
        ),
        (
            f"{AGENT}class Step(Agent):\n    def handle(self, message, context, more): pass",
            "payloads/m.py: line 3: Step.handle cannot be called with a message and a context",
        ),
    ],
)
def test_a_module_that_must_fail_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    assert problem(tmp_path, text).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        f"{AGENT}class Step(Agent):\n{HANDLE}",
        f"from mirrorneuron import Agent as Base\nclass Step(Base):\n{HANDLE}",
        f"{AGENT}class Step(Agent):\n    def handle(self, *args): yield_ = lambda: (yield)",
        f"{AGENT}class Step(Agent):\n    def handle(self, message, context, more=1, *, other=2): pass",
        f"{AGENT}def decorate(f): return f\nclass Step(Agent):\n    @decorate\n    async def handle(self, m, c): pass",
        f"{AGENT}class Base(Agent):\n{HANDLE}class Step(Base): pass",
        "from elsewhere import *",
        "from elsewhere import Step",
        "import elsewhere\nclass Step(elsewhere.Base): pass",
        "import elsewhere as Step",
        "def __getattr__(name): return 1",
        "globals()['Step'] = 1",
        "def f():\n    global Step\n    Step = 1",
        "try:\n    from fast import Step\nexcept ImportError:\n    class Step: pass",
        f"{AGENT}if True:\n    class Step(Agent):\n        handle = print",
        f"{AGENT}class Step(Agent): pass\nStep.handle = print",
        f"{AGENT}class Step(Agent): pass\nsetattr(Step, 'handle', print)",
        f"# -*- coding: latin-1 -*-\n{AGENT}class Step(Agent):\n{HANDLE}",
        "x = '\\d'\n" + f"{AGENT}class Step(Agent):\n{HANDLE}",
        "match 1:\n    case Step: pass",
        "(Step := 1)",
        "x = " + "(" * 150 + "1" + ")" * 150 + f"\n{AGENT}class Step(Agent):\n{HANDLE}",
    ],
)
def test_a_module_that_may_work_is_valid(tmp_path: Path, text: str) -> None:
    assert problem(tmp_path, text) == ""


def test_the_source_is_not_imported(tmp_path: Path) -> None:
    text = f"raise SystemExit(1)\n{AGENT}class Step(Agent):\n{HANDLE}"
    load(write(tmp_path, "m:Step", {"m.py": text}))
    assert "m" not in sys.modules


def test_packages_are_followed_to_the_file(tmp_path: Path) -> None:
    files = {"src/pkg/__init__.py": "", "src/pkg/steps.py": f"{AGENT}class Step(Agent):\n{HANDLE}"}
    assert load(write(tmp_path, "pkg.steps:Step", files, "src")).warnings == ()
    with pytest.raises(ManifestError, match=r'package "pkg" has no module "stepz" .did you mean "steps"'):
        load(write(tmp_path, "pkg.stepz:Step", files, "src"))
    with pytest.raises(ManifestError, match=r"payloads/src/pkg/steps\.py: has no class Stop"):
        load(write(tmp_path, "pkg.steps:Stop", files, "src"))


def test_a_package_may_take_its_modules_from_elsewhere(tmp_path: Path) -> None:
    files = {"pkg/__init__.py": "__path__.append('/x')", "fast/__init__.py": "", "fast/core.cpython-311.so": ""}
    assert [w.path for w in load(write(tmp_path, "pkg.steps:Step", files)).warnings] == ["nodes[0].config.module"]
    load(write(tmp_path, "fast.core:Step", files))


def test_a_module_that_is_nowhere_is_a_warning_because_nodes_may_have_it(tmp_path: Path) -> None:
    (warning,) = load(write(tmp_path, "nowhere:Thing", {"m.py": ""}, "m.py")).warnings
    assert warning.message == 'module "nowhere" is not in the folder of module_source "m.py", and is not installed here'
    (warning,) = load(write(tmp_path, "counters:Thing", {"counter.py": ""})).warnings
    assert (warning.path, warning.hint) == ("nodes[0].config.module", 'did you mean "counter"?')
    assert load(write(tmp_path, "json.decoder:JSONDecoder", {})).warnings == ()
