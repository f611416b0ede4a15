"""A pytest plugin for llama.cpp's tests: no model is downloaded before they begin."""

from importlib import import_module


def pytest_collection() -> None:
    """Have the suite's own preparation do nothing."""
    utils = import_module("utils")  # the suite's, whose folder pytest has put on the path
    utils.ServerPreset.load_all = staticmethod(lambda: None)
