"""The rules of an ACL in docs/operations.md."""

from __future__ import annotations

from pathlib import Path

import redis

from mirrorneuron.store.rights import Role
from tests.support.markdown import blocks

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PASSWORD = "word"


def rules_of(role: Role, namespace: str) -> list[str]:
    """The rules of a user in *role*."""
    texts = {block.title: block.text for block in blocks(PAGE, PAGE.name) if block.title}
    return f"{texts['common']} {texts[role]}".replace("NS", namespace).split()


def set_user(server: redis.Redis, name: str, rules: list[str]) -> None:
    """Make a user with exactly these rules."""
    server.execute_command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *rules)


def url_of(url: str, name: str) -> str:
    return url.replace("redis://", f"redis://{name}:{PASSWORD}@")
