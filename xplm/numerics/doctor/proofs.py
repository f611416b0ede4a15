"""Proofs that a work-around holds on a library: what xplm computes there is right, and does not pass through the gap.

Ops are judged as `xplm parity` judges them: against their definition in float64, within bounds that follow from formats
and lengths. That a function is not called, and so cannot do harm, is seen by writing down all that are.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from xplm.backend import Backend, load_backend
from xplm.cache import KVCache
from xplm.errors import RequestError
from xplm.formats import FORMATS, round_to
from xplm.generate.engine import Engine
from xplm.generate.options import SamplingOptions
from xplm.generate.sampling import choose_token, log_normaliser
from xplm.models.decoder import param_specs
from xplm.numerics.doctor.numbers import first_wrong, smallest_normal
from xplm.numerics.doctor.probe import raised
from xplm.numerics.doctor.watch import watch
from xplm.numerics.op_cases import OpCase
from xplm.numerics.parity.check_ops import OpVerdict, check_case, check_op
from xplm.numerics.parity.judge import BUG
from xplm.numerics.tiny_models import TINY_MODELS, draw_params, tiny_config
from xplm.precision import SHORT_NAMES, cast
from xplm.runtime import Runtime, make_runtime
from xplm.train.clip import clip_by_global_norm

Proof = Callable[[Backend, str], str]
"""(backend, dtype by array-API name) -> what is wrong; "" if it holds."""

POLICIES = {long: short for short, long in reversed(SHORT_NAMES.items())}
"""The policy that stores everything in a dtype."""

N_TOKENS = 4
N_NUMBERS = 1000


def failure(proof: Proof, backend: Backend, dtype: str) -> str:
    """What is wrong, an exception of the library included; "" if the proof holds."""
    try:
        return proof(backend, dtype)
    except Exception as error:  # noqa: BLE001 - a library may raise what it likes; it is no proof then
        return raised(error)


def all_of(*proofs: Proof) -> Proof:
    """Several proofs in one."""
    return lambda backend, dtype: next(filter(None, (p(backend, dtype) for p in proofs)), "")


def ops_are_right(*ops: str) -> Proof:
    """These ops are right, forward and backward, on all their cases."""

    def proof(backend: Backend, dtype: str) -> str:
        test, reference = make_runtime(backend, POLICIES[dtype]), _reference()
        return _first_bug((op, found) for op in ops for found in check_op(test, reference, op))

    return proof


def ops_avoid(functions: Sequence[str], *ops: str, of: str | None = None) -> Proof:
    """The portable kernels of these ops call none of these functions on arrays of the dtype, or of `of` instead."""

    def proof(backend: Backend, dtype: str) -> str:
        if (of or dtype) not in backend.dtypes:
            return ""
        watched, calls = watch(backend)
        test, avoided = make_runtime(watched, POLICIES[dtype]), backend.dtypes[of or dtype]
        for op in ops:
            calls.clear()
            check_op(test, _reference(), op)
            for call in calls:
                if call.function in functions and avoided in call.dtypes:
                    return f"{op} calls {call.function} on {of or dtype}"
        return ""

    return proof


def numbers_are_rounded(backend: Backend, dtype: str) -> str:
    """What is cast to the dtype, and what is computed in it, is rounded to it, on the device already."""
    rt, format = make_runtime(backend, POLICIES[dtype]), FORMATS[dtype]
    xp, float32 = rt.backend.xp, rt.backend.dtypes["float32"]
    host = np.random.default_rng(0).standard_normal(N_NUMBERS).astype(np.float32)
    x = xp.astype(rt.backend.from_host(host), rt.dtype.compute)

    rounded = round_to(host, format)
    results = {
        "a cast": (x, rounded),
        "a product": (x * x, round_to(rounded * rounded, format)),
        "a sum": (x + x, round_to(rounded + rounded, format)),
    }
    for says, (found, right) in results.items():
        if first_wrong(rt.backend.to_host(xp.astype(found, float32)), right):
            return f"{says} is not rounded to {dtype}"
    return ""


def small_numbers_do_not_matter(backend: Backend, dtype: str) -> str:
    """Ops whose numbers are about the smallest normal one, and below, are right; parity's bounds see to it."""
    rng = np.random.default_rng(0)
    root = np.sqrt(smallest_normal(dtype))
    cases = {
        "linear": OpCase("small", (root * rng.standard_normal((4, 3)), root * rng.random((5, 3)))),
        "softmax": OpCase("far apart", (np.array([[0.0, -80.0, -88.0, -95.0, -102.0, -110.0]]),)),
    }
    test = make_runtime(backend, POLICIES[dtype])
    return _first_bug(
        (op, found)
        for op, case in cases.items()
        for found in check_case(test, _reference(), op, case)
    )


def choices_are_right(backend: Backend, dtype: str) -> str:
    """Greedy tokens where every logit is equal, and from logits with -inf; the library orders nothing."""
    watched, calls = watch(backend)
    engine = _tiny_engine(make_runtime(watched, "fp32"))
    # The zeros of a tied head are those of the embedding too: each logit is a sum of zeros.
    tokens = _greedy(engine)
    if tokens != [0] * N_TOKENS:
        return f"of equal logits, {tokens} are chosen"
    hidden = backend.from_host(np.array([-np.inf, 1.0, 3.0, -np.inf, 3.0], np.float32))
    logits = backend.to_host(hidden)
    if choose_token(logits, [0], SamplingOptions()).token != 2:
        return "of logits with -inf, the largest is not chosen"
    orders = {"argmax", "argmin", "argsort", "sort", "top_k", "topk"}
    used = sorted(orders & {call.function for call in calls})
    return f"generation calls {', '.join(used)}" if used else ""


def ids_are_checked(backend: Backend, dtype: str) -> str:
    """An id that the vocabulary lacks is refused before it gets to the device."""
    engine = _tiny_engine(make_runtime(backend, "fp32"))
    for wrong in (engine.config.vocab_size, -1):
        try:
            engine.check_ids([0, wrong])
        except RequestError:
            continue
        return f"id {wrong} is let through"
    return ""


def nan_is_told(backend: Backend, dtype: str) -> str:
    """NaN comes out of softmax, is refused among logits, and is seen by the norm that a training step looks at."""
    rt = make_runtime(backend, "fp32")
    x = backend.from_host(np.array([[1.0, np.nan, 2.0]], np.float32))
    y, _ = rt.ops.softmax_fwd(x)
    if not np.isnan(backend.to_host(y)).all():
        return "softmax does not pass it on"
    _, norm = clip_by_global_norm({"weight": x}, 1.0)
    if not np.isnan(float(norm)):
        return "the norm of a gradient does not see it"
    try:
        log_normaliser(backend.to_host(x))
    except RequestError:
        return ""
    return "logits with NaN are let through"


def _first_bug(verdicts: Iterable[tuple[str, OpVerdict]]) -> str:
    """The first of some ops' verdicts that is a bug, in words; "" where none is."""
    for op, (case, is_backward, verdict) in verdicts:
        if verdict.kind == BUG:
            way = "backward" if is_backward else "forward"
            return f"{op} {way}, {case}: {verdict.name} {verdict.reason}"
    return ""


def _reference() -> Runtime:
    return make_runtime(load_backend(), "fp64", "portable")


def _tiny_engine(rt: Runtime) -> Engine:
    """Two layers, and a table of zeros at either end."""
    config = tiny_config(TINY_MODELS["llama"])
    params = draw_params(param_specs(config), seed=0)
    params["model.embed_tokens.weight"] *= 0.0
    on_device = {
        name: cast(rt.backend.from_host(host.astype(np.float32)), rt.dtype.param)
        for name, host in params.items()
    }
    return Engine(rt, config, on_device)


def _greedy(engine: Engine) -> list[int]:
    """The tokens that follow token 1."""
    cache = KVCache.allocate(engine.rt, engine.config, batch=1, capacity=N_TOKENS + 1)
    ids = engine.check_ids([1])
    for _ in range(N_TOKENS):
        (logits,) = engine.feed(cache, np.array([ids[-1:]]))
        ids.append(choose_token(logits, ids, SamplingOptions()).token)
    return ids[1:]
