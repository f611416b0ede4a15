"""Reading GGUF headers: against the gguf package's own writer and reader, and malformed in every field."""

import struct

import gguf
import numpy as np
import pytest

from tests.paths import smollm2_gguf
from xplm.checkpoint.gguf_header import read_gguf_header
from xplm.errors import CheckpointError

U32, F32, STRING, ARRAY = 4, 6, 8, 9


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    return string(key) + struct.pack("<I", kind) + value


def tensor(name, dims, kind=0, offset=0):
    dims = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


def gguf_file(entries=(), tensors=(), data=b"", version=3, n_entries=None, n_tensors=None):
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_entries = len(entries) if n_entries is None else n_entries
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries)
    body = head + b"".join(entries) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + data


def read(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_gguf_header(path)


def test_a_header_written_by_hand(tmp_path):
    content = gguf_file(
        [
            entry("a", U32, struct.pack("<I", 7)),
            entry("b", STRING, string("hé")),
            entry("c", ARRAY, struct.pack("<IQ", F32, 2) + struct.pack("<2f", 0.5, -1.0)),
            entry("d", ARRAY, struct.pack("<IQ", STRING, 2) + string("x") + string("")),
            entry("e", ARRAY, struct.pack("<IQ", U32, 0)),
        ],
        [tensor("w", (3, 2))],
        data=bytes(24),
    )
    header = read(tmp_path, content)

    assert header.metadata == {"a": 7, "b": "hé", "c": [0.5, -1.0], "d": ["x", ""], "e": []}
    w = header.tensors["w"]
    assert (w.shape, w.kind.name, w.row_bytes, w.n_bytes) == ((2, 3), "F32", 12, 24)
    assert w.offset == len(content) - 24


def test_every_value_type_against_the_package_writer(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    written = {
        "uint8": 200,
        "int8": -3,
        "uint16": 60000,
        "int16": -300,
        "uint32": 2**32 - 1,
        "int32": -5,
        "uint64": 2**63,
        "int64": -(2**62),
        "float32": 0.25,
        "float64": 1e-300,
        "bool": True,
        "string": "žluťoučký",
    }
    for kind, value in written.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_array("x.words", ["a", "bb", ""])
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_custom_alignment(64)
    writer.add_tensor("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_gguf_header(path)
    assert {kind: header.metadata[f"x.{kind}"] for kind in written} == written
    assert header.metadata["x.words"] == ["a", "bb", ""]
    assert header.metadata["x.numbers"] == [1, 2, 3]
    assert header.tensors["w"].offset % 64 == 0
    stored = np.frombuffer(path.read_bytes(), np.float32, 6, header.tensors["w"].offset)
    np.testing.assert_array_equal(stored, np.arange(6))


@pytest.mark.nightly
def test_a_real_file_reads_as_the_package_reader_does():
    path = smollm2_gguf()
    header, reader = read_gguf_header(path), gguf.GGUFReader(path)
    expected = {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    assert header.metadata == expected
    assert [(name, t.shape, t.kind, t.offset, t.n_bytes) for name, t in header.tensors.items()] == [
        (t.name, tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset, t.n_bytes)
        for t in reader.tensors
    ]


HUGE = 2**60
WORD = entry("a", STRING, string("b"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"GG", "4 bytes at 0", id="cut in the magic"),
        pytest.param(b"PK\3\4" + bytes(60), "starts with", id="another format"),
        pytest.param(gguf_file(version=1), "version 1", id="old version"),
        pytest.param(gguf_file(version=3 << 24), "version 50331648", id="big-endian"),
        pytest.param(gguf_file(n_entries=HUGE), "bytes at", id="endless entries"),
        pytest.param(gguf_file(n_tensors=HUGE), "bytes at", id="endless tensors"),
        pytest.param(gguf_file([struct.pack("<Q", HUGE)]), "bytes at", id="endless key"),
        pytest.param(gguf_file([string(b"\xff\xfe")]), "not UTF-8", id="key in no encoding"),
        pytest.param(gguf_file([WORD, WORD]), "'a' twice", id="key twice"),
        pytest.param(gguf_file([entry("a", 13, b"")]), "value type 13", id="unknown type"),
        pytest.param(
            gguf_file([entry("a", ARRAY, struct.pack("<IQ", U32, HUGE))]),
            "bytes at",
            id="endless numbers",
        ),
        pytest.param(
            gguf_file([entry("a", ARRAY, struct.pack("<IQ", STRING, HUGE))]),
            "bytes at",
            id="endless strings",
        ),
        pytest.param(
            gguf_file([entry("a", ARRAY, struct.pack("<IQ", STRING, 1) + string(b"\xff"))]),
            "not UTF-8",
            id="array in no encoding",
        ),
        pytest.param(
            gguf_file([entry("a", ARRAY, struct.pack("<IQQ", STRING, 1, HUGE))]),
            "bytes at",
            id="endless string in an array",
        ),
        pytest.param(
            gguf_file([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]),
            "array of arrays",
            id="nested arrays",
        ),
        pytest.param(gguf_file((), [tensor("w", ())]), "0 dimensions", id="no dimensions"),
        pytest.param(gguf_file((), [tensor("w", [1] * 5)]), "5 dimensions", id="many dimensions"),
        pytest.param(gguf_file((), [tensor("w", [4], kind=99)]), "kind 99", id="unknown kind"),
        pytest.param(gguf_file((), [tensor("w", [33], kind=2)]), "blocks of 32", id="ragged block"),
        pytest.param(gguf_file((), [tensor("w", [HUGE] * 4)]), "'w' of", id="endless tensor"),
        pytest.param(gguf_file((), [tensor("w", [4], offset=HUGE)]), "'w' of", id="far tensor"),
        pytest.param(gguf_file((), [tensor("w", [4])], bytes(15)), "'w' of 16", id="cut tensor"),
        pytest.param(
            gguf_file((), [tensor("w", [1]), tensor("w", [1])], bytes(8)), "'w' twice", id="twice"
        ),
        pytest.param(
            gguf_file([entry("general.alignment", U32, struct.pack("<I", 0))]),
            "alignment 0",
            id="no alignment",
        ),
        pytest.param(
            gguf_file([entry("general.alignment", STRING, string("x"))]),
            "alignment 'x'",
            id="odd alignment",
        ),
    ],
)
def test_a_malformed_header_is_refused(tmp_path, content, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        read(tmp_path, content)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_gguf_header(tmp_path / "none.gguf")
