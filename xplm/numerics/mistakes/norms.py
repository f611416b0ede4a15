"""rms_norm and layer_norm: what the statistics of a row add to its gradient, and how that goes missing."""

import numpy as np

from xplm.numerics.mistakes.chain import (
    Chain,
    Form,
    Formula,
    Reduction,
    mean,
    mistake,
    rows,
    total,
)

EPS_FORMS = (
    Form("with eps = 1e-06", {"eps": 1e-6}),
    Form("with eps = 1e-08", {"eps": 1e-8}),
    Form(
        "with eps = 1e-12, or none", {"eps": 1e-12}
    ),  # on these cases the two cannot be told apart
)

SQUARES = Reduction("the mean of x^2", np.mean, lambda e: e.x**2)
PROJECTION = Reduction("the mean of dn * n", np.mean, lambda e: e.dn * e.n)

DX_OF_RMS: dict[str, Formula] = {
    "direct": lambda e: e.rstd * e.dn,
    "along_n": PROJECTION,
    "by_rstd": lambda e: e.rstd * e.n * e.along_n,
}
"""Both ways of rms_norm's y back to x; the second is subtracted."""

RMS_WORDS = {
    "dn": "the gradient of the normalised n",
    "direct": "the direct path rstd * dn",
    "by_rstd": "the path through rstd, which is x * rstd^3 * mean(dn * x),",
}


def _rows_of(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x (..., C) as rows of a weight's shape: (C,), or (H, C) with a row for each head."""
    return x.reshape(-1, *weight.shape)


RMS_NORM = Chain(
    arguments=("x", "weight"),
    gradients=("x", "weight"),
    forward={
        "squares": SQUARES,
        "rstd": lambda e: 1 / np.sqrt(e.squares + e.eps),
        "n": lambda e: e.x * e.rstd,
        "y": lambda e: e.n * e.weight,
    },
    backward={
        "dn": lambda e: e.dy * e.weight,
        **DX_OF_RMS,
        "dx": lambda e: e.direct - e.by_rstd,
        "dweight": lambda e: _rows_of(e.weight, e.dy * e.n).sum(0),
    },
    mistakes=(
        mistake(
            "dx lacks the path through rstd: rstd depends on every x of the row, "
            "dx = rstd * (dn - n * mean(dn * n))",
            dx=lambda e: e.rstd * e.dn,
        ),
        mistake(
            "dx leaves the weight out: dn = dy * weight comes first",
            dn=lambda e: e.dy,
        ),
        mistake(
            "the path through rstd leaves the weight out: mean(dy * n) where mean(dy * weight * n) "
            "belongs",
            dx=lambda e: e.rstd * (e.dn - e.n * mean(e.dy * e.n)),
        ),
        mistake(
            "the path through rstd is summed over the row where the mean belongs: "
            "its 1/C is missing",
            dx=lambda e: e.rstd * (e.dn - e.n * total(e.dn * e.n)),
        ),
        mistake(
            "the path through rstd has the wrong sign",
            dx=lambda e: e.rstd * (e.dn + e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the path through rstd has x where the normalised n = x * rstd belongs: "
            "d rstd / d x_j = -rstd^3 x_j / C",
            dx=lambda e: e.rstd * (e.dn - e.x * mean(e.dn * e.n)),
        ),
        mistake(
            "the path through rstd is twice what it should be: the 2 of d(x^2) cancels the 1/2 of "
            "the root",
            dx=lambda e: e.rstd * (e.dn - 2 * e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the path through rstd is half of what it should be: the 2 of d(x^2) cancels the 1/2 of "
            "the root",
            dx=lambda e: e.rstd * (e.dn - 0.5 * e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "dx is not multiplied by rstd",
            dx=lambda e: e.dn - e.n * mean(e.dn * e.n),
        ),
        mistake(
            "dx is divided by rstd where it should be multiplied",
            dx=lambda e: (e.dn - e.n * mean(e.dn * e.n)) / e.rstd,
        ),
        mistake(
            "dx is layer_norm's: it takes the mean of dn out, which no mean of x put in",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) - e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "dweight sums dy * x: n = x * rstd belongs in place of x",
            dweight=lambda e: rows(e.dy * e.x).sum(0),
        ),
        mistake(
            "dweight sums dy * y: y holds the weight already, n = x * rstd belongs",
            dweight=lambda e: rows(e.dy * e.y).sum(0),
        ),
        mistake(
            "dweight is averaged over the rows, and the loss has averaged already: it is the sum",
            dweight=lambda e: rows(e.dy * e.n).mean(0),
        ),
        mistake(
            "the backward forgets eps: it takes rstd = 1 / sqrt(mean(x^2))",
            rstd=lambda e: 1 / np.sqrt(mean(e.x**2)),
        ),
    ),
    forward_mistakes=(
        mistake(
            "it subtracts the mean, which is layer_norm's; rms_norm does not",
            rstd=lambda e: 1 / np.sqrt(mean((e.x - mean(e.x)) ** 2) + e.eps),
            n=lambda e: (e.x - mean(e.x)) * e.rstd,
        ),
        mistake(
            "eps is added to the root; it belongs under it",
            rstd=lambda e: 1 / (np.sqrt(mean(e.x**2)) + e.eps),
        ),
        mistake(
            "it divides by the root of the sum of squares where their mean belongs",
            rstd=lambda e: 1 / np.sqrt(total(e.x**2) + e.eps),
        ),
        mistake(
            "it divides by the mean of squares and not by its root",
            rstd=lambda e: 1 / (mean(e.x**2) + e.eps),
        ),
        mistake("the weight is left out", y=lambda e: e.n),
        mistake("it scales by 1 + weight, as Gemma does", y=lambda e: e.n * (1 + e.weight)),
    ),
    forms=EPS_FORMS,
    positions={"x": 1},
    words=RMS_WORDS,
)

LAYER_NORM = Chain(
    arguments=("x", "weight", "bias"),
    gradients=("x", "weight", "bias"),
    forward={
        "mu": Reduction("the mean of x", np.mean, lambda e: e.x),
        "centred": lambda e: e.x - e.mu,
        "variance": Reduction("the variance", np.mean, lambda e: e.centred**2),
        "rstd": lambda e: 1 / np.sqrt(e.variance + e.eps),
        "n": lambda e: e.centred * e.rstd,
        "y": lambda e: e.n * e.weight + e.bias,
    },
    backward={
        "dn": lambda e: e.dy * e.weight,
        "direct": lambda e: e.rstd * e.dn,
        "mean_dn": Reduction("the mean of dn", np.mean, lambda e: e.dn),
        "by_mean": lambda e: e.rstd * e.mean_dn,
        "along_n": PROJECTION,
        "by_variance": lambda e: e.rstd * e.n * e.along_n,
        "dx": lambda e: e.direct - e.by_mean - e.by_variance,
        "dweight": lambda e: _rows_of(e.weight, e.dy * e.n).sum(0),
        "dbias": lambda e: _rows_of(e.bias, e.dy).sum(0),
    },
    mistakes=(
        mistake(
            "the variance path has an extra 1/std: n already holds one, and rstd stands before the "
            "bracket",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) - e.rstd * e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the direct path has an extra 1/std: dn is divided by the standard deviation once",
            dx=lambda e: e.rstd * (e.rstd * e.dn - mean(e.dn) - e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the path through the mean has an extra 1/std: mean(dn) is divided by it once",
            dx=lambda e: e.rstd * (e.dn - e.rstd * mean(e.dn) - e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the path through the mean has the wrong sign",
            dx=lambda e: e.rstd * (e.dn + mean(e.dn) - e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the variance path is half of what it should be: the 2 of d(x^2) cancels the 1/2 of the "
            "root",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) - 0.5 * e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the variance path lacks a 1/std: it has x - mean where n = (x - mean) * rstd belongs",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) - e.centred * mean(e.dn * e.n)),
        ),
        mistake(
            "the variance path has x where n = (x - mean) * rstd belongs",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) - e.x * mean(e.dn * e.n)),
        ),
        mistake(
            "dx lacks the path through the variance: "
            "dx = rstd * (dn - mean(dn) - n * mean(dn * n))",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn)),
        ),
        mistake(
            "dx lacks the path through the mean: dx = rstd * (dn - mean(dn) - n * mean(dn * n))",
            dx=lambda e: e.rstd * (e.dn - e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "dx lacks the paths through the mean and the variance, which depend on every x of the "
            "row: dx = rstd * (dn - mean(dn) - n * mean(dn * n))",
            dx=lambda e: e.rstd * e.dn,
        ),
        mistake(
            "the paths through mean and variance are summed over the row where means belong: "
            "their 1/C is missing",
            dx=lambda e: e.rstd * (e.dn - total(e.dn) - e.n * total(e.dn * e.n)),
        ),
        mistake(
            "the variance path has the wrong sign",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) + e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the variance path is twice what it should be: the 2 of d(x^2) cancels the 1/2 of the "
            "root",
            dx=lambda e: e.rstd * (e.dn - mean(e.dn) - 2 * e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "the variance path divides by C - 1: the forward's variance divides by C",
            dx=lambda e: (
                e.rstd * (e.dn - mean(e.dn) - e.n * total(e.dn * e.n) / (e.x.shape[-1] - 1))
            ),
        ),
        mistake("dx leaves the weight out: dn = dy * weight comes first", dn=lambda e: e.dy),
        mistake(
            "dx is not multiplied by rstd",
            dx=lambda e: e.dn - mean(e.dn) - e.n * mean(e.dn * e.n),
        ),
        mistake(
            "dx is divided by the variance where the standard deviation belongs",
            dx=lambda e: e.rstd**2 * (e.dn - mean(e.dn) - e.n * mean(e.dn * e.n)),
        ),
        mistake(
            "dweight sums dy * x: n = (x - mean) * rstd belongs in place of x",
            dweight=lambda e: rows(e.dy * e.x).sum(0),
        ),
        mistake(
            "dweight sums dy * (x - mean): it lacks rstd",
            dweight=lambda e: rows(e.dy * e.centred).sum(0),
        ),
        mistake(
            "dweight sums dy * y: y holds weight and bias already, n belongs",
            dweight=lambda e: rows(e.dy * e.y).sum(0),
        ),
        mistake(
            "dweight is averaged over the rows, and the loss has averaged already: it is the sum",
            dweight=lambda e: rows(e.dy * e.n).mean(0),
        ),
        mistake(
            "dbias is averaged over the rows, and the loss has averaged already: it is the sum",
            dbias=lambda e: rows(e.dy).mean(0),
        ),
        mistake(
            "dweight and dbias are averaged over the rows, and the loss has averaged already: "
            "both are sums",
            dweight=lambda e: rows(e.dy * e.n).mean(0),
            dbias=lambda e: rows(e.dy).mean(0),
        ),
        mistake(
            "dbias sums dy * weight: the bias is added after the weight multiplies",
            dbias=lambda e: rows(e.dn).sum(0),
        ),
        mistake(
            "the backward forgets eps: it takes rstd = 1 / sqrt(variance)",
            rstd=lambda e: 1 / np.sqrt(mean(e.centred**2)),
        ),
    ),
    forward_mistakes=(
        mistake(
            "the variance divides by C - 1; it should divide by C (ddof=0)",
            rstd=lambda e: 1 / np.sqrt(total(e.centred**2) / (e.x.shape[-1] - 1) + e.eps),
        ),
        mistake(
            "eps is added to the root; it belongs under it",
            rstd=lambda e: 1 / (np.sqrt(mean(e.centred**2)) + e.eps),
        ),
        mistake(
            "it divides by the variance and not by its root",
            rstd=lambda e: 1 / (mean(e.centred**2) + e.eps),
        ),
        mistake(
            "the mean is not subtracted: that is rms_norm",
            rstd=lambda e: 1 / np.sqrt(mean(e.x**2) + e.eps),
            n=lambda e: e.x * e.rstd,
        ),
        mistake("the bias is not added", y=lambda e: e.n * e.weight),
        mistake("the weight is left out", y=lambda e: e.n + e.bias),
    ),
    forms=EPS_FORMS,
    positions={"x": 1},
    words={
        "dn": "the gradient of the normalised n",
        "direct": "the direct path rstd * dn",
        "by_mean": "the path through the mean, which is rstd * mean(dn),",
        "by_variance": "the path through the variance, which is rstd * n * mean(dn * n),",
    },
)
