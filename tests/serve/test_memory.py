"""Memory that replies may take, as the server sees it."""

from dataclasses import replace

from tests.generate.tiny import tiny_model
from tests.serve.client import client_of
from xplm.backend import DeviceMemory, load_backend
from xplm.generate.memory import plan_generation

PATH, BODY = "/v1/completions", {"prompt": [5] * 5, "max_tokens": 200, "ignore_eos": True}


def test_pages_that_are_there_need_not_be_free_memory():
    free = [2**40]
    backend = replace(load_backend("numpy"), memory=lambda: DeviceMemory(0, 0, 2**40, free[0]))
    lm = tiny_model(backend=backend)
    plan = plan_generation(lm.engine, DeviceMemory(0, 0, 0), prompt_tokens=5, new_tokens=200)
    parts = plan.peak.parts
    beside_the_cache = plan.peak.n_bytes - parts["weights"] - parts["cache"]
    with client_of(lm) as client:
        statuses = []
        for n_bytes in (beside_the_cache, 2**40, beside_the_cache):
            free[0] = n_bytes
            statuses.append(client.post(PATH, json=BODY).status_code)
    assert statuses == [503, 200, 200]
