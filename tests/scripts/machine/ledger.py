"""A ledger of all messages of a job: none may be lost, and none may take effect twice. It knows no rules of the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable


class Ledger:
    """Accounts for each message that was sent: it is in a mailbox, was consumed, or was cleared by a retry."""

    def __init__(self) -> None:
        self.run = 1
        self._made = 0
        self._waiting: set[bytes] = set()
        self._consumed: set[bytes] = set()  #: in the present run

    def new(self) -> bytes:
        """A new, unique message, which is not sent yet."""
        self._made += 1
        return b'{"n":%d}' % self._made

    def sent(self, messages: Iterable[bytes]) -> None:
        self._waiting |= set(messages)

    def consumed(self, messages: Collection[bytes]) -> None:
        assert self._consumed.isdisjoint(messages)
        assert self._waiting.issuperset(messages)
        self._consumed |= set(messages)
        self._waiting -= set(messages)

    def next_run(self, cleared: Iterable[bytes], again: Iterable[bytes]) -> None:
        self.run += 1
        self._consumed = set()
        self._waiting = self._waiting - set(cleared) | set(again)

    def check(self, mailboxes: Iterable[list[bytes]], effects: Collection[bytes]) -> None:
        """Check the ledger. *effects* has the message of each effect that the store recorded in the present run."""
        assert Counter(message for mailbox in mailboxes for message in mailbox) == Counter(self._waiting)
        assert Counter(effects) == Counter(self._consumed)
