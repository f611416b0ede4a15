"""Mutations of a file: of its bytes, and of the values in it, drawn from a generator with a seed."""

import json
import math
import re
from random import Random
from typing import Any

DEEP = "@deep@"
"""Stands for 5,000 lists in each other, until the text is written: no value that deep can be handled before."""

NASTY = "\x1b[2J\x9b31m\u202e\u2066\x00"
"""What moves a cursor, colours, turns text around, and ends a C string."""

TEXTS = [
    "",
    "a",
    "x" * 300,
    "x" * 100_000,
    NASTY,
    "\ud800",
    "../../etc/passwd",
    "~nobody/x",
    DEEP,
    "\ufeff",
]
NUMBERS = [
    0,
    -1,
    1,
    2,
    255,
    2**16,
    2**31,
    2**32 - 1,
    2**53,
    2**63,
    -(2**63),
    2**64,
    10**30,
    10**400,
]
FLOATS = [0.0, -0.0, 0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan]
OTHERS = [None, True, False, [], {}, [[]], [{}], {"": None}, [0] * 1000]
TOML_VALUES = [
    "", "''", "0", "-1", "1e400", "nan", "inf", "true", "[]", "{}", "[[1, 'a'], {b = 2}]", "2024-01-01",
    "1" * 5000, "0x" + "f" * 5000, "9" * 300, "[" * 5000, "[" * 5000 + "]" * 5000, "{a = " * 5000,
    "'" + "x" * 300 + "'", "'" + "x" * 60_000 + "'", '"\\u0000\\u202e\\u009b"', "'~nobody/x'", "'/dev/zero'",
]  # fmt: skip


def mutate_bytes(content: bytes, rng: Random, reach: int | None = None) -> bytes:
    """Up to three changes in the first `reach` bytes; one time in four the end is cut off."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(reach or len(changed), len(changed)) or 1)
        n = rng.choice([1, 1, 4, 8, 64])
        patch = rng.choice(
            [
                rng.randbytes(n),
                rng.choice(NUMBERS[:12]).to_bytes(16, "little", signed=True)[:8],
                bytes(n),
                NASTY.encode(),
                bytes(changed[at : at + n]),
                b"",
            ]
        )
        kind = rng.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + len(patch)] = patch
        elif kind == 2:
            changed[at:at] = patch
        else:
            del changed[at : at + n]
    if rng.random() < 0.25:
        del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def any_value(rng: Random) -> Any:
    """A value of any type of JSON."""
    return rng.choice(rng.choice([TEXTS, NUMBERS, FLOATS, OTHERS]))


def mutate_value(value: Any, rng: Random) -> Any:
    """A copy of a JSON value with one to three changes at any depth."""
    for _ in range(rng.randint(1, 3)):
        value = _at_some_place(value, rng)
    return value


def _at_some_place(value: Any, rng: Random) -> Any:
    if not value or not isinstance(value, dict | list) or rng.random() < 0.1:
        return _instead(value, rng)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        new = [_at_some_place(value[i], rng), *rng.choice([[], [], [value[i]]])]
        return value[:i] + rng.choice([new, new, new, []]) + value[i + 1 :]
    key = rng.choice(list(value))
    changed = dict(value)
    kind = rng.randrange(8)
    if kind == 0:
        del changed[key]
    elif kind == 1:
        changed[rng.choice(TEXTS)] = changed.pop(key)
    elif kind == 2:
        changed[key] = changed[rng.choice(list(value))]
    else:
        changed[key] = _at_some_place(value[key], rng)
    return changed


def _instead(value: Any, rng: Random) -> Any:
    if isinstance(value, str) and rng.random() < 0.3:
        return rng.choice([value + NASTY, value[: len(value) // 2], value * 2, value.upper()])
    if type(value) in (int, float) and rng.random() < 0.3:
        return rng.choice([value + 1, value - 1, -value, str(value), 1.5])
    if rng.random() < 0.2:
        return rng.choice([[value], {"a": value}, [value] * 3])
    return any_value(rng)


def to_json(value: Any) -> bytes:
    """A value as JSON; it may hold what JSON cannot: DEEP, lone surrogates, NaN."""
    text = json.dumps(value)
    for quoted in (f'"{DEEP}"', DEEP):
        text = text.replace(quoted, "[" * 5000 + "]" * 5000 if quoted[0] == '"' else "deep")
    return text.encode()


def mutate_json(content: bytes, rng: Random) -> bytes:
    """JSON with other values, twice the same key, or damaged bytes."""
    kind = rng.randrange(8)
    if kind == 0:
        return mutate_bytes(content, rng)
    if kind == 1:
        keys = re.findall(rb'"[^"\\]*": ', content)
        key = rng.choice(keys) if keys else b""
        return content.replace(key, key + to_json(any_value(rng)) + b", " + key, 1)
    return to_json(mutate_value(json.loads(content), rng))


def mutate_lines(content: bytes, rng: Random) -> bytes:
    """Lines of JSON, one of them changed, doubled, cut or left out."""
    lines = content.splitlines(keepends=True)
    i = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(content, rng)
    new = (
        [mutate_json(lines[i].strip(), rng) + b"\n"]
        if kind > 1
        else rng.choice([[], [lines[i]] * 2])
    )
    return b"".join(lines[:i] + new + lines[i + 1 :])


def mutate_toml(content: bytes, rng: Random) -> bytes:
    """TOML with other values, keys and sections, or damaged bytes."""
    lines = content.decode().splitlines()
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(len(lines))
        key = lines[i].partition("=")[0].strip()
        value = rng.choice(TOML_VALUES)
        lines[i : i + 1] = rng.choice(
            [
                [f"{key} = {value}"],
                [f"{key} = {value}"],
                [f"{key} = {value}"],
                [],
                [lines[i]] * 2,
                [f"{'a.' * rng.choice([10, 5000])}a = {value}"],
                [f"[{key or 'x' * 300}]"],
                [f"[{'a.' * 5000}a]"],
                [f'"{rng.choice(["", "a.b", "x" * 60_000])}" = {value}'],
            ]
        )
    changed = "\n".join(lines).encode(errors="surrogatepass")
    return mutate_bytes(changed, rng) if rng.random() < 0.15 else changed
