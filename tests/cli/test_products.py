"""What multiplies matrices, as commands show it."""

from xplm.blas import ProductRate
from xplm.cli.products import product_lines


def test_a_line_a_dtype_begins_with_what_is_chosen():
    assert product_lines(
        [
            ProductRate("float32", "openblas", "OpenBLAS 0.3", 9e10, 2, is_chosen=False),
            ProductRate("float32", "mkl", "MKL 2026", 12.4e10, 2, is_chosen=True),
            ProductRate("bfloat16", "widened", "widened", 8e10, 1, is_chosen=False),
            ProductRate("bfloat16", "mkl", "MKL 2026", 6e11, 1, True, flushes_subnormals=True),
        ]
    ) == [
        "float32 on 2 threads: MKL 2026 124 GFLOP/s; not taken: OpenBLAS 0.3 90 GFLOP/s",
        "bfloat16 on 1 thread: MKL 2026 600 GFLOP/s, subnormal operands read as 0; not taken: widened 80 GFLOP/s",
    ]
    assert product_lines([]) == []
