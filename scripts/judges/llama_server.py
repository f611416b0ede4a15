"""Stands in for llama.cpp's program `llama-server`: takes its command line, and starts `xplm serve`.

    python scripts/judges/llama_server.py WORK [--device D] [--backend B] -- LLAMA-SERVER'S FLAGS

WORK/model, a Hugging Face directory, is served in place of the tests' small language model and of their embedding
model. A flag that has no counterpart, and changes what is answered, is refused by name, with exit code 2. Two that
all tests give are passed over: --seed and --n-predict, which hold for requests that name none of their own; such a
request draws its seed here, and may fill the context.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

TEXT_MODEL = ("ggml-org/test-model-stories260K", None)
EMBEDDING_MODEL = ("ggml-org/models", "bert-bge-small/ggml-model-f16.gguf")

WITHOUT_EFFECT = {
    "--batch-size": 1, "--ubatch-size": 1, "--threads": 1, "-fa": 1,  # speed alone
    "--cont-batching": 0, "--kv-unified": 0, "--offline": 0, "--no-slots": 0,
    "--metrics": 0, "--embedding": 0, "--jinja": 0,  # always so here
    "--no-jinja": 0,  # llama.cpp's own ChatML is that of the model's template
    "--seed": 1, "--n-predict": 1,
}  # fmt: skip
"""Flags that are passed over, and how many words follow each."""


def main() -> None:
    """Become `xplm serve`."""
    split = sys.argv.index("--")
    work, *where = sys.argv[1:split]
    flags = read_flags(sys.argv[split + 1 :])
    command = ["-P", "-m", "xplm", "serve", *where, *serve_flags(flags, Path(work))]
    os.execv(sys.executable, [sys.executable, *command])


def read_flags(words: Sequence[str]) -> argparse.Namespace:
    """llama-server's command line.

    Raises:
        SystemExit: a flag has no counterpart.
    """
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("--port", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--temp", type=float, default=0.8)
    parser.add_argument("--ctx-size", type=int)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--alias", default="model")
    parser.add_argument("--api-key")
    parser.add_argument("--hf-repo")
    parser.add_argument("--hf-file")
    parser.add_argument("--pooling", choices=("mean", "last"), help="all are the mean here")
    parser.add_argument("--chat-template")
    parser.add_argument("--chat-template-file", type=Path)
    for name, n_words in WITHOUT_EFFECT.items():
        if n_words:
            parser.add_argument(name)
        else:
            parser.add_argument(name, action="store_true")
    flags, unknown = parser.parse_known_args(words)
    if unknown:
        refuse(" ".join(unknown))
    for name in ("host", "alias"):
        if "," in getattr(flags, name):
            refuse(f"--{name} with several names")
    if (flags.hf_repo, flags.hf_file) not in (TEXT_MODEL, EMBEDDING_MODEL):
        refuse(f"--hf-repo {flags.hf_repo} --hf-file {flags.hf_file}")
    if flags.chat_template is not None and flags.chat_template.isidentifier():
        refuse(f"--chat-template {flags.chat_template}, a name")
    return flags


def serve_flags(flags: argparse.Namespace, work: Path) -> list[str]:
    """The same for `xplm serve`; the model gets a temperature, and a template where one is given.

    Args:
        flags: llama-server's.
        work: the directory with the model; what is made goes there.
    """
    own = Path(tempfile.mkdtemp(dir=work))
    model = own / "model"
    model.mkdir()
    for file in (work / "model").iterdir():
        (model / file.name).symlink_to(file)
    sampling = {"do_sample": flags.temp > 0, "temperature": flags.temp or 1.0, "top_k": 0}
    replace(model / "generation_config.json", json.dumps(sampling))
    template = flags.chat_template
    if flags.chat_template_file is not None:
        template = flags.chat_template_file.read_text(encoding="utf-8")
    if template is not None:
        replace(model / "chat_template.jinja", template)
    command = ["--model", str(model), "--served-name", flags.alias, "--any-model"]
    command += ["--port", flags.port, "--host", flags.host, "--sessions", str(own / "sessions")]
    if flags.ctx_size is not None:  # llama.cpp divides it among its slots
        command += ["--context", str(flags.ctx_size // flags.parallel)]
    if flags.api_key is not None:
        keys = own / "keys"
        keys.write_text(flags.api_key + "\n", encoding="utf-8")
        command += ["--api-key-file", str(keys)]
    return command


def replace(path: Path, text: str) -> None:
    """Write a file of the model in place of a link."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def refuse(what: str) -> NoReturn:
    """End, as what is asked for is not there."""
    print(f"xplm serve has no counterpart of {what}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
