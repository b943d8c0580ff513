"""What a user of the server must be allowed to do, by role, and a probe that finds what is refused.

Each command is tried on a key that expires or does not exist, so that it changes nothing: a server checks the rights of
a user before it looks at the key. The rules of an ACL for each role are in `docs/operations.md`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from mirrorneuron.pools import LIGHT, queue
from mirrorneuron.store.connection import UNREACHABLE, RedisClient
from mirrorneuron.store.keys import Keys, result_channel

EXPIRES_MS: Final = 10_000  # of the key that the probe writes
REPLY_S: Final = 2.0  # for the confirmation of a subscription


class Role(StrEnum):
    NODE = "node"
    PRODUCER = "producer"
    DASHBOARD = "dashboard"


#: The roles that need a command (their initials), and a call of it: HELD is a string, so that commands for other types
#: fail without an effect; FREE does not exist.
COMMANDS: Final = f"""
npd SET HELD 0 PX {EXPIRES_MS}
npd TIME
npd EVAL return 0
npd EVALSHA {"0" * 40} 0
n-d SCRIPT LOAD return
n-d SCRIPT EXISTS {"0" * 40}
npd MULTI
npd EXEC
npd GET FREE
npd MGET FREE
npd EXISTS FREE
npd DEL FREE
npd SETRANGE FREE 0 EMPTY
np- EXPIRE FREE 60
n-- PEXPIRE FREE 60
n-- PTTL FREE
npd GETRANGE FREE 0 0
-p- PERSIST FREE
-p- RENAME FREE FREE
-p- UNLINK FREE
npd HGET FREE f
npd HMGET FREE f
np- HSET HELD f v
-p- HSETNX HELD f v
np- HINCRBY HELD f 1
np- HDEL FREE f
n-d HLEN FREE
n-- HSTRLEN FREE f
n-- SISMEMBER FREE m
npd LPUSH HELD v
np- RPUSH HELD v
npd LLEN FREE
npd LINDEX FREE 0
np- LRANGE FREE 0 0
np- LTRIM FREE 0 0
n-d BRPOP HELD 1
npd SADD HELD m
npd SREM FREE m
npd SMEMBERS FREE
npd SCARD FREE
npd SMISMEMBER FREE m
npd ZADD HELD 1 m
np- ZREM FREE m
npd ZCARD FREE
npd ZCOUNT FREE 0 0
npd ZRANGE FREE 0 0
npd ZRANGEBYSCORE FREE 0 0
-pd ZREVRANGEBYSCORE FREE 0 0
npd ZSCORE FREE m
npd ZMSCORE FREE m
n-- ZREMRANGEBYSCORE FREE 0 0
np- ZREMRANGEBYRANK FREE 0 0
np- XADD HELD * f v
np- XDEL FREE 0-1
npd XLEN FREE
npd XRANGE FREE - +
-pd XREVRANGE FREE + -
-pd XREAD COUNT 1 STREAMS FREE 0
npd PUBLISH CHANNEL EMPTY
--d INFO server
--d CONFIG GET save
npd DEL HELD
"""


def refusals(client: RedisClient, keys: Keys, role: Role, pools: Sequence[str], *, broker: bool) -> list[str]:
    """Return what the server refuses to the client's user although *role* needs it: commands, keys, channels.

    *pools* are those of the node. *broker*: the server is the broker too. Takes two round trips and two for each
    channel. Raises redis errors.
    """
    found = [*_commands(client, keys, role), *_keys(client, keys, role, pools, broker)]
    return list(dict.fromkeys([*found, *_channels(client, keys, role, broker)]))


def _commands(client: RedisClient, keys: Keys, role: Role) -> Iterator[str]:
    # A key that each role may write: those of the control queues, or for producers of the namespace.
    held = f"{keys.ns}:probe" if role is Role.PRODUCER else f"probe.{_control(keys)}"
    token = secrets.token_hex(6)
    words = {
        "HELD": f"{held}:{token}",
        "FREE": f"{held}:{token}:free",
        "CHANNEL": result_channel("probe"),
        "EMPTY": "",
    }
    rows = [line.split() for line in COMMANDS.splitlines() if line]
    calls = [row[1:] for row in rows if role.value[0] in row[0]]
    pipe = client.pipeline(transaction=False)
    for call in calls:
        args = [words.get(word, word) for word in call]
        pipe.execute_command(*args, *(("0",) if call[0] == "EVAL" else ()))
    for call, reply in zip(calls, pipe.execute(raise_on_error=False), strict=True):
        if _is_refusal(reply) and "access" not in str(reply):  # refused keys and channels are found one by one
            subcommand = f"|{call[1]}" if call[0] in ("SCRIPT", "CONFIG") else ""
            yield f"command {call[0]}{subcommand}".lower()


def _keys(client: RedisClient, keys: Keys, role: Role, pools: Sequence[str], broker: bool) -> Iterator[str]:
    queues = [queue(keys.ns, pool) for pool in (LIGHT, *pools)]
    jobs = {f"{keys.ns}:probe": f"{keys.ns}:*"} | ({name: name for name in queues} if broker else {})
    celery = {
        "_kombu.binding_deadlines": "_kombu.binding*",
        f"probe.{_control(keys)}": f"*.{_control(keys)}*",
        f"{keys.ns}.unacked": f"{keys.ns}.unacked*",
        f"{keys.ns}.events.probe": f"{keys.ns}.events*",
    }
    written = {keys.swept: keys.swept} if role is Role.DASHBOARD else jobs
    read = jobs if role is Role.DASHBOARD else {}
    if broker and role is not Role.PRODUCER:
        written = {**written, **celery}
    pipe = client.pipeline(transaction=False)
    for name in written:
        pipe.execute_command("SETRANGE", name, 0, "")  # changes nothing, whatever the key holds
    for name in read:
        pipe.execute_command("GET", name)
    rows = [*written.items(), *read.items()]
    for (_, pattern), reply in zip(rows, pipe.execute(raise_on_error=False), strict=True):
        if _is_refusal(reply) and "access" in str(reply):
            yield f"key {pattern}"


def _channels(client: RedisClient, keys: Keys, role: Role, broker: bool) -> Iterator[str]:
    topics = f"/{client.connection_pool.connection_kwargs.get('db') or 0}."
    events, control = f"{topics}{keys.ns}.events/*", f"{topics}{_control(keys)}"
    plain = {result_channel("probe"): result_channel("*"), keys.ends: keys.ends}
    if role is Role.DASHBOARD:
        del plain[keys.ends]
    for channel, pattern in plain.items():
        yield from _subscription(client, "subscribe", channel, pattern)
    for channel in (events, control) if broker and role is not Role.PRODUCER else ():
        yield from _subscription(client, "psubscribe", channel, channel)


def _subscription(client: RedisClient, verb: str, channel: str, pattern: str) -> Iterator[str]:
    with client.pubsub() as pubsub:
        for call in (verb, verb.replace("sub", "unsub")):
            try:
                getattr(pubsub, call)(channel)
                pubsub.get_message(timeout=REPLY_S)
            except UNREACHABLE:
                raise
            except ResponseError as error:
                yield f"channel {pattern}" if "access" in str(error) else f"command {call}"
                return


def _control(keys: Keys) -> str:
    """The exchange of Celery's commands to workers, see `dispatch.celery_app`."""
    return f"{keys.ns}.control.pidbox"


def _is_refusal(reply: Any) -> bool:
    """True if *reply* is the error of a command that the user may not call, or that the server does not know."""
    return isinstance(reply, ResponseError) and (
        isinstance(reply, NoPermissionError) or "unknown" in str(reply) or "NOPERM" in str(reply)
    )
