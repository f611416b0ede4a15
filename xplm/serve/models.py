"""`/v1/models`: the one that is served."""

import time
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.serve.errors import json_response
from xplm.serve.serving import Serving, serving_of

STARTED = int(time.time())


async def list_models(request: HttpRequest) -> Response:
    """All models: one."""
    return json_response({"object": "list", "data": [_describe(serving_of(request))]})


async def get_model(request: HttpRequest) -> Response:
    """One model."""
    serving = serving_of(request)
    serving.require_model(request.path_params["name"])
    return json_response(_describe(serving))


def _describe(serving: Serving) -> dict[str, Any]:
    lm = serving.lm
    return {
        "id": serving.settings.model,
        "object": "model",
        "created": STARTED,
        "owned_by": "xplm",
        "max_model_len": lm.engine.context,
        "policy": str(lm.rt.policy),
        "backend": lm.rt.backend.name,
        "is_invariant": lm.rt.is_invariant,
        "stored_as": lm.stored_as,
    }
