"""What xplm does where a library has a gap: in words, the place in the source, and the proof that it helps."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from xplm.emulation import emulate
from xplm.generate.beam import beam_steps
from xplm.generate.engine import Engine
from xplm.generate.sampling import choose_token, log_normaliser
from xplm.kernels.attention import attention_bwd, attention_fwd
from xplm.kernels.embedding import embedding_bwd
from xplm.kernels.linear import linear_bwd, linear_fwd
from xplm.kernels.softmax import softmax_fwd
from xplm.models.loss_scale import make_loss_scale
from xplm.numerics.doctor.proofs import (
    Proof,
    all_of,
    choices_are_right,
    ids_are_checked,
    nan_is_told,
    numbers_are_rounded,
    ops_are_right,
    ops_avoid,
    small_numbers_do_not_matter,
)
from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.bounds import underflow
from xplm.precision import cast, wide_dtype
from xplm.train.step import train_step

WIDE_FUNCTIONS = ("sum", "mean", "exp", "log", "sqrt", "tanh", "max", "min")


class Workaround(NamedTuple):
    """How xplm does without."""

    name: str
    says: str  # what is done instead, one line
    places: tuple[Callable[..., Any], ...]  # where
    proof: Proof

    @property
    def sources(self) -> list[str]:
        """The places as text: "xplm/precision.py:170 cast"."""
        return [_source(place) for place in self.places]


WORKAROUNDS: dict[str, Workaround] = {
    workaround.name: workaround
    for workaround in (
        Workaround(
            "wide products",
            "operands are cast to float32, multiplied there, and the result is rounded once",
            (linear_fwd, linear_bwd, attention_fwd, attention_bwd),
            all_of(
                ops_are_right("linear", "attention", "linear_cross_entropy"),
                ops_avoid(("matmul",), *OPS),
            ),
        ),
        Workaround(
            "cast outputs",
            "every kernel casts what it returns",
            (cast,),
            ops_are_right(*OPS),
        ),
        Workaround(
            "emulation",
            "numbers lie in float32, and every result is rounded to the format",
            (emulate,),
            all_of(numbers_are_rounded, ops_are_right(*OPS)),
        ),
        Workaround(
            "no infinity in maxima",
            "a hidden score takes its row's lowest, not -inf; logits are looked at on the host",
            (softmax_fwd, log_normaliser),
            ops_are_right("softmax", "attention"),
        ),
        Workaround(
            "choice on the host",
            "logits go to the host, and tokens are chosen there",
            (choose_token, beam_steps),
            choices_are_right,
        ),
        Workaround(
            "wide arithmetic",
            "sums, roots and exponentials run in float32 at least, and are rounded once",
            (wide_dtype,),
            all_of(ops_are_right(*OPS), ops_avoid(WIDE_FUNCTIONS, *OPS)),
        ),
        Workaround(
            "ids checked at the border",
            "ids outside of the vocabulary are refused on the host",
            (Engine.check_ids,),
            ids_are_checked,
        ),
        Workaround(
            "one-hot product",
            "rows of gradient are added up by a product with the one-hot rows of the ids that occur",
            (embedding_bwd,),
            ops_are_right("embedding"),
        ),
        Workaround(
            "small numbers count as zero",
            "nothing rests on them: float16's gradients are scaled up, parity's bounds leave room",
            (make_loss_scale, underflow),
            small_numbers_do_not_matter,
        ),
        Workaround(
            "NaN told elsewhere",
            "logits are checked on the host, gradients by their global norm",
            (log_normaliser, train_step),
            nan_is_told,
        ),
        Workaround(
            "rounded from float32",
            "what becomes 16-bit was computed in float32, unless a policy names float64",
            (wide_dtype,),
            all_of(ops_are_right("rms_norm", "linear"), ops_avoid(("astype",), *OPS, of="float64")),
        ),
    )
}


def _source(place: Callable[..., Any]) -> str:
    path = Path(inspect.getfile(place)).relative_to(Path(__file__).parents[3])
    return f"{path.as_posix()}:{inspect.getsourcelines(place)[1]} {place.__name__}"
