"""Every optimizer by the name that a recipe gives it."""

from xplm.errors import RequestError, did_you_mean
from xplm.train.optimizers.adafactor import ADAFACTOR
from xplm.train.optimizers.adam import ADAM
from xplm.train.optimizers.adamw import ADAMW
from xplm.train.optimizers.lion import LION
from xplm.train.optimizers.muon import MUON
from xplm.train.optimizers.optimizer import Optimizer
from xplm.train.optimizers.sgd import SGD

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD,
    "adam": ADAM,
    "adamw": ADAMW,
    "lion": LION,
    "adafactor": ADAFACTOR,
    "muon": MUON,
}


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in OPTIMIZERS:
        hint = did_you_mean(name, OPTIMIZERS)
        raise RequestError(f'an optimizer is one of {", ".join(OPTIMIZERS)}; got "{name}"{hint}')
    return OPTIMIZERS[name]
