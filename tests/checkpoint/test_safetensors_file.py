"""A safetensors file is whole and well-formed, or refused at once."""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from xplm.checkpoint.safetensors_file import open_safetensors
from xplm.errors import CheckpointError


def write(path, entry, n_bytes=8):
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(n_bytes))
    return path


def test_tensors_are_read_from_where_the_header_says(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32([7]), "c": np.zeros((0, 2))}
    save_file(arrays, tmp_path / "x", metadata={"format": "pt"})
    file = open_safetensors(tmp_path / "x")
    assert file.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.read(name), array, strict=True)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [10**300] * 20_000, "data_offsets": [0, 8]}, ""),
        ({"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 8]}, ""),
        ({"dtype": "F32", "shape": [2] + [1] * 64, "data_offsets": [0, 8]}, "65 dimensions"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, ""),
        ({"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}, ""),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}, ""),
        ({"dtype": "F32", "shape": [2]}, ""),
        ({"dtype": {"F32": None}, "shape": [2], "data_offsets": [0, 8]}, ""),
        (["F32", [2], [0, 8]], "malformed"),
        (7, ""),
    ],
)
def test_a_malformed_entry_is_refused_at_once(tmp_path, entry, message):
    path = write(tmp_path / "x", entry)
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match=f"must be a whole safetensors file.*({message})"):
        open_safetensors(path)
    assert time.perf_counter() - began < 5.0


@pytest.mark.parametrize("n_bytes", [7, 9])
def test_a_file_of_another_length_is_refused(tmp_path, n_bytes):
    path = write(tmp_path / "x", {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, n_bytes)
    with pytest.raises(CheckpointError, match="must be a whole safetensors file"):
        open_safetensors(path)
