"""Write the generated part of the three reference pages: `python -m docs.generate`, or `make docs-reference`.

A page is a hand-written introduction, the line MARK, and the tables that come from the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mirrorneuron.cli.reference import cli_reference
from mirrorneuron.reference import manifest_reference, settings_reference

DOCS: Final = Path(__file__).parent
MARK: Final = "<!-- Generated from the code by `make docs-reference`: do not edit below this line. -->"
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "manifest-reference.md": manifest_reference,
    "settings-reference.md": settings_reference,
    "cli-reference.md": cli_reference,
}


def page(name: str) -> str:
    """The text that the page *name* should have. Raises ValueError when the page lacks MARK."""
    introduction, mark, _ = (DOCS / name).read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"docs/{name} lacks the line {MARK}")
    return f"{introduction}{MARK}\n\n{_without_title(PAGES[name]()).strip()}\n"


def _without_title(text: str) -> str:
    """*text* without a title of its own: the introduction has the page's title."""
    return text.partition("\n")[2] if text.startswith("# ") else text


def main() -> None:
    """Write every page that is stale, and print its name."""
    for name in PAGES:
        text = page(name)
        if text != (DOCS / name).read_text(encoding="utf-8"):
            (DOCS / name).write_text(text, encoding="utf-8")
            print(f"written: docs/{name}")


if __name__ == "__main__":
    main()
