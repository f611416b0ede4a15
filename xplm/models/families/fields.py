"""The keys of a config.json, read and checked: a wrong type, a missing key or a value out of range is named."""

from collections.abc import Mapping
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError

MAX_INT = 2**31 - 1  # of every number of things


class Fields:
    """A config.json under one spelling, its family's defaults filled in."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Wrap the parsed JSON object."""
        self._values = values

    def get(self, key: str) -> Any:
        """The value as it stands; None where the key is absent or null."""
        return self._values.get(key)

    def but(self, **values: Any) -> "Fields":
        """The same with other values of some keys."""
        return Fields({**self._values, **values})

    def integer(self, key: str, default: int | None = None, at_most: int = MAX_INT) -> int:
        """A positive integer."""
        value = self.get(key)
        value = default if value is None else value
        if value is None:
            raise ConfigError(f"config.json must give {key}; it is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key} is a positive integer; got {shown(value)}")
        if value > at_most:
            raise ConfigError(f"{key} is at most {at_most}; got {shown(value)}")
        return value

    def count(self, key: str, default: int) -> int:
        """An integer that may be 0."""
        value = self.get(key)
        return 0 if (default if value is None else value) == 0 else self.integer(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.get(key)
        value = default if value is None else value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or not is_number or not 1e-30 < value < 1e30:
            raise ConfigError(f"{key} is a positive number; got {shown(value)}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ConfigError(f"{key} is true or false; got {shown(value)}")
        return value

    def token_id(self, key: str) -> int | None:
        """The first token id, None where there is none."""
        ids = self.token_ids(key)
        return ids[0] if ids else None

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them; negative ones are no ids."""
        value = self.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i <= MAX_INT for i in ids):
            raise ConfigError(f"{key} is a token id or a list of them; got {shown(value)}")
        return tuple(i for i in ids if i >= 0)
