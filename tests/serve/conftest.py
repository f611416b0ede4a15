"""A server of a tiny model, for each file that has none of its own."""

import pytest

from tests.generate.tiny import tiny_model


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture(scope="module")
def client(lm):
    from tests.serve.client import client_of  # which skips without the extra "serve"

    with client_of(lm) as client:
        yield client
