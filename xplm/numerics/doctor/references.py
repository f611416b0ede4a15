"""Where a gap is known from: the upstream thread, or the page of documentation, that tells of it.

A gap without a row has no thread that is known here.
"""

CUPY = "https://github.com/cupy/cupy"
JAX = "https://github.com/jax-ml/jax/issues"
ML_DTYPES = "https://github.com/jax-ml/ml_dtypes"
NUMPY = "https://github.com/numpy/numpy/issues"
STANDARD = "https://github.com/data-apis/array-api/issues"
STANDARD_DTYPES = "https://data-apis.org/array-api/latest/API_specification/data_types.html"
TORCH = "https://github.com/pytorch/pytorch/issues"

REFERENCES: tuple[tuple[str, str, str], ...] = (
    ("cupy", "bfloat16 product, batched", f"{CUPY}/pull/10317"),
    ("cupy", "float16 product's speed, batched", f"{CUPY}/pull/10317"),
    ("cupy", "max and min", f"{CUPY}/issues/8180"),
    ("cupy", "argmax and argmin", f"{CUPY}/issues/7424"),
    ("jax", "subnormals", f"{JAX}/26658"),
    ("jax", "take outside", f"{JAX}/3774"),
    ("jax", "float16 product's speed, 2-D", f"{JAX}/7431"),
    ("numpy", "float16 product's speed, 2-D", f"{NUMPY}/11590"),
    ("numpy", "float16 product's speed, batched", f"{NUMPY}/11590"),
    ("numpy", "scatter-add", f"{NUMPY}/26689"),
    ("numpy", "bfloat16 product's dtype", f"{ML_DTYPES}/issues/235"),
    ("numpy", "bfloat16 beside a Python number", f"{ML_DTYPES}/issues/189"),
    ("numpy", "bfloat16 sum of many", f"{ML_DTYPES}/issues/63"),
    ("numpy", "bfloat16 from float64", f"{ML_DTYPES}/pull/401"),
    ("torch", "bfloat16 product's sums", f"{TORCH}/83863"),
    ("torch", "product's speed, 2-D", f"{TORCH}/146508"),
    ("torch", "product's speed, batched", f"{TORCH}/146508"),
    ("torch", "argmax and argmin", f"{TORCH}/41998"),
    ("torch", "top-k", f"{TORCH}/27542"),
    ("strict", "present", STANDARD_DTYPES),
    ("strict", "scatter-add", f"{STANDARD}/864"),
    ("", "subnormals", STANDARD_DTYPES),
    ("", "scatter-add", f"{STANDARD}/864"),
    ("", "top-k", f"{STANDARD}/629"),
)
"""(library, end of a probe's label, address), the most specific first; library "" is any."""


def reference(library: str, label: str) -> str | None:
    """The address for a gap of a library, by the label of the probe that found it; None where none is known."""
    return next(
        (address for of, end, address in REFERENCES if of in (library, "") and label.endswith(end)),
        None,
    )
