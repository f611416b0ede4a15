"""`/health` and `/metrics`."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.serve.errors import ApiError, json_response
from xplm.serve.serving import serving_of


async def health(request: HttpRequest) -> Response:
    """Whether requests can be served."""
    if not serving_of(request).worker.is_alive:
        raise ApiError("the server is ending", status=503, kind="server_error", code="unavailable")
    return json_response({"status": "ok"})


async def metrics(request: HttpRequest) -> Response:
    """What the server has counted."""
    return Response(serving_of(request).metrics.as_text(), media_type=CONTENT_TYPE_LATEST)
