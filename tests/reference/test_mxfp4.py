"""Weights in MXFP4 as transformers dequantises them."""

import numpy as np
import pytest

from xplm.checkpoint.mxfp4 import dequantise


def test_weights_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    reference = pytest.importorskip(
        "transformers.integrations.mxfp4", reason="transformers is the reference here"
    )
    blocks = np.random.default_rng(0).integers(0, 256, (2, 6, 3, 16), np.uint8)
    scales = np.random.default_rng(1).integers(1, 250, (2, 6, 3), np.uint8)
    theirs = reference.convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32
    )
    ours = np.matrix_transpose(dequantise(blocks, scales))
    np.testing.assert_array_equal(ours, theirs.numpy())
