"""`/v1/embeddings`: texts as vectors of length 1."""

import base64
from typing import Any, Literal

import msgspec
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.generate.embed import embed_steps
from xplm.serve.errors import CLIENT_LEFT, json_response
from xplm.serve.prompts import Spelled, prompt_ids, split_prompts
from xplm.serve.respond import unless_left
from xplm.serve.serving import Serving, read_request, serving_of

UNSUPPORTED = {"dimensions": None}


class EmbeddingRequest(msgspec.Struct):
    """The body."""

    input: Spelled
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None


async def embeddings(request: HttpRequest) -> Response:
    """Embed one text or several."""
    serving = serving_of(request)
    body, warnings = await read_request(request, EmbeddingRequest, UNSUPPORTED)
    serving.require_model(body.model)
    texts = await run_in_threadpool(_texts_of, serving, body)
    vectors = await unless_left(request, _embed(serving, texts, request.scope["owner"]))
    if vectors is None:
        return Response(status_code=CLIENT_LEFT)
    encoding = body.encoding_format or "float"
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    n_tokens = sum(map(len, texts))
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    answer = {"object": "list", "data": data, "model": serving.settings.model, "usage": usage}
    return json_response(answer | ({"warnings": warnings} if warnings else {}))


async def _embed(serving: Serving, texts: list[list[int]], owner: str) -> list[np.ndarray]:
    engine = serving.lm.engine
    return [await serving.worker.compute(embed_steps(engine, ids), owner) for ids in texts]


def _texts_of(serving: Serving, body: EmbeddingRequest) -> list[list[int]]:
    """The token ids of each text, checked."""
    lm = serving.lm
    prompts = split_prompts(body.input, "input")
    serving.require_count(len(prompts))
    return [lm.engine.check_ids(prompt_ids(lm, prompt)) for prompt in prompts]


def _written(vector: np.ndarray, encoding: str) -> Any:
    """A vector, made as long as 1, as JSON or as the base64 of its float32, the low byte first."""
    wide = vector.astype(np.float64)
    unit = (wide / max(float(np.linalg.norm(wide)), 1e-30)).astype("<f4")
    return base64.b64encode(unit.tobytes()).decode() if encoding == "base64" else unit.tolist()
