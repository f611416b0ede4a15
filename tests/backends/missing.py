"""Pretends that a library is not installed."""

import builtins

import pytest


def without(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Imports of this library, or of array_api_compat's namespace for it, fail from now on."""
    original = builtins.__import__

    def importing(module: str, *args: object, **options: object) -> object:
        if module.split(".")[0] == library or module == f"array_api_compat.{library}":
            raise ModuleNotFoundError(f"No module named {module!r}")
        return original(module, *args, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
