"""Count the primes from START (included) to END (excluded) and emit the result."""

from __future__ import annotations

import json
import os
from math import isqrt


def is_prime(number: int) -> bool:
    if number < 4:
        return number > 1
    return number % 2 == 1 and all(number % divisor for divisor in range(3, isqrt(number) + 1, 2))


def main() -> None:
    start, end = int(os.environ["START"]), int(os.environ["END"])
    primes = [number for number in range(start, end) if is_prime(number)]
    found = {"start": start, "end": end, "count": len(primes), "largest": primes[-1] if primes else None}
    print(json.dumps({"emit_messages": [{"type": "range_checked", "body": found}]}))


if __name__ == "__main__":
    main()
