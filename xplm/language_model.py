"""A language model, ready to use: the Python interface that scripts and the command line are written against."""

from collections.abc import Generator, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeGuard, cast, overload

import numpy as np

from xplm.backend import load_backend
from xplm.checkpoint.adapter import adapted_config, merge_adapter, read_adapter
from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.load import LOAD_ADVICE, load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.pull import pull
from xplm.config import DecoderConfig
from xplm.errors import RequestError
from xplm.generate.decode import generate_steps, sum_timings
from xplm.generate.engine import Engine
from xplm.generate.options import make_options
from xplm.generate.perplexity import Perplexity, compute_perplexity
from xplm.generate.reply import Reply, start_reply
from xplm.generate.result import Generation
from xplm.generate.session import Chat
from xplm.generate.stream import TextStream, stream_reply
from xplm.numerics.fragility import AGAINST, TokenFragility, measure_fragility
from xplm.out_of_memory import memory_faults
from xplm.runtime import Runtime, make_runtime
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer
from xplm.typing import Params

Prompt = str | Sequence[int]
"""Text, or the token ids of one."""


class LanguageModel:
    """A decoder with its parameters and its tokenizer; `xplm.load` makes one."""

    def __init__(
        self, config: DecoderConfig, params: Params, rt: Runtime, tokenizer: Tokenizer
    ) -> None:
        """Put the parts together.

        Args:
            config: the decoder's.
            params: its parameters under Hugging Face names, on the runtime's backend.
            rt: backend, kernels and dtypes.
            tokenizer: the model's.
        """
        self.config = config
        self.params = params
        self.rt = rt
        self.tokenizer = tokenizer
        self.engine = Engine(rt, config, params)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The model's scores for the token after each position.

        Args:
            ids: T token ids.

        Returns:
            (T, V) float32, on the host.

        Raises:
            RequestError: no ids, more than the context holds, or one outside the vocabulary.
        """
        return self.engine.logits(self.engine.check_ids(ids))

    @overload
    def generate(self, prompts: Prompt, **options: Any) -> Generation: ...

    @overload
    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[Generation]: ...

    def generate(
        self, prompts: Prompt | Sequence[Prompt], **options: Any
    ) -> Generation | list[Generation]:
        """Continue a prompt, or several at once.

        Args:
            prompts: one prompt, or a list. A list is generated as one batch, and each result is what its prompt gives
                by itself, up to rounding.
            options: any of the fields of SamplingOptions. For a list of prompts, `seed` may be a list too, with a
                seed for each.

        Returns:
            The reply; for a list of prompts a list, in the same order.

        Raises:
            RequestError: an option is out of range, or a prompt is empty, fills the context, or has an unknown id.
        """
        if _is_prompt(prompts):
            return self.stream(prompts, **options).finish()

        prompts = cast(Sequence[Prompt], prompts)
        seeds = options.pop("seed", 0)
        if not isinstance(seeds, list | tuple):
            seeds = [seeds] * len(prompts)
        if len(seeds) != len(prompts):
            raise RequestError(
                f"a list of seeds must have one for each of {len(prompts)} prompts; got {len(seeds)}"
            )
        replies = [
            self._start(prompt, options | {"seed": seed})
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        if not replies:
            return []
        if replies[0].options.num_beams > 1:  # the beams of one prompt are a batch already
            return [TextStream(self._stream(reply)).finish() for reply in replies]

        prompt_tokens = max(len(reply.prompt_ids) for reply in replies)
        new_tokens = max(reply.max_tokens for reply in replies)
        self.engine.require_memory(len(replies), prompt_tokens, new_tokens)
        cache = self.engine.allocate(len(replies), prompt_tokens + new_tokens)
        compiled_before = self.engine.rt.backend.compilations()
        seconds = [step.seconds for step in generate_steps(self.engine, cache, replies)]
        prefill_tokens = sum(len(reply.prompt_ids) for reply in replies)
        timings = sum_timings(self.engine, replies, prefill_tokens, seconds, compiled_before)
        return [reply.result(timings) for reply in replies]

    def stream(self, prompt: Prompt, **options: Any) -> TextStream:
        """Continue a prompt, and read the text as it comes.

        Args:
            prompt: text, or token ids.
            options: any of the fields of SamplingOptions.

        Returns:
            Pieces of text, none of them a part of a character; then its `result` is the whole reply.

        Raises:
            RequestError: an option is out of range, or the prompt is empty, fills the context, or has an unknown id.
        """
        return TextStream(self._stream(self._start(prompt, options)))

    def chat(self, system: str | None = None) -> Chat:
        """Start a conversation.

        Args:
            system: the system message; None for what the model's template says by itself.

        Raises:
            TemplateError: the model has no chat template, or one that is not valid.
        """
        return Chat(self.engine, ChatEncoder(self.tokenizer, self.engine.context), system)

    def perplexity(self, text: Prompt, *, window: int = 512) -> Perplexity:
        """How well the model predicts a text, cut into windows that are scored alone.

        Args:
            text: the text, or its token ids.
            window: token ids to a window.

        Raises:
            RequestError: the window is below 2 or beyond the context, or the text has fewer than 2 ids.
        """
        ids = self.tokenizer.encode_long(text) if isinstance(text, str) else self._ids_of(text)
        return compute_perplexity(self.engine, ids, window)

    def fragility(
        self, prompt: Prompt, token_ids: Sequence[int], against: str = AGAINST
    ) -> list[TokenFragility]:
        """Which tokens of a greedy reply another library, batch size or dtype could have made others.

        Args:
            prompt: text, or token ids.
            token_ids: the reply to it.
            against: the policy that the other may compute in.

        Returns:
            For each token its margin, the bound of what rounding can do to that, and `is_fragile`.

        Raises:
            RequestError: the ids are none, unknown, or more than the context holds, or `against` is not a policy.
        """
        (tokens,) = measure_fragility(self.engine, [self._ids_of(prompt)], [token_ids], against)
        return tokens

    def _ids_of(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            self.tokenizer.require_fit(prompt, self.engine.context)
            return self.tokenizer.encode(prompt)
        if not isinstance(prompt, Iterable):
            raise RequestError(f"a prompt must be text or a list of token ids; got {prompt!r}")
        return list(prompt)

    def _start(self, prompt: Prompt, options: dict[str, Any]) -> Reply:
        return start_reply(
            self.engine,
            self.tokenizer,
            self._ids_of(prompt),
            make_options(options),
            continues_prompt=True,
        )

    def _stream(self, reply: Reply) -> Generator[str, None, Generation]:
        yield ""  # the request is good: what TextStream waits for
        cache = self.engine.allocate(1, len(reply.prompt_ids) + reply.max_tokens)
        return (yield from stream_reply(self.engine, cache, reply))


def load(
    name_or_path: str | Path,
    device: str = "cpu",
    policy: str = "fp32",
    backend: str | None = None,
    kernels: str = "fused",
    home: Path | None = None,
    adapter: str | Path | None = None,
    threads: int | None = None,
    context: int | None = None,
) -> LanguageModel:
    """Load a model, which is fetched first if its name is known and it is not on this machine.

    Args:
        name_or_path: a known name ("smollm2-135m-instruct"), a Hugging Face directory or hub id, or a .gguf file.
        device: "cpu", "cuda" or "cuda:N".
        policy: dtypes, such as "fp32", "fp16", "bf16", "fp8" or "bf16,softmax=bf16".
        backend: an installed backend's name; None for the device's default.
        kernels: "fused", or "portable" for the reference source alone.
        home: where fetched models are kept; None for the platform's user cache directory.
        adapter: a directory in PEFT's layout, whose low-rank adapters are merged into the model.
        threads: CPU threads that the model computes on, while it does; None leaves that to the backend's library.
        context: the most tokens of a sequence; None for what the model's configuration says. More than that is allowed
            where positions are not learned, with a warning.

    Returns:
        The model, its parameters in the device's memory.

    Raises:
        RequestError: the policy or kernels are not among those above, or the model cannot have such a context.
        BackendError: the backend, the device or a dtype is missing, or the backend cannot take so many threads.
        CheckpointError, ConfigError, TokenizerError: the model's files are missing, malformed or not supported.
        DownloadError: the model has to be fetched, and cannot be.
        OutOfMemoryError: the device has less free memory than the parameters take.
    """
    if not isinstance(policy, str):
        raise RequestError(f'a policy must be a text such as "bf16"; got {policy!r}')
    rt = make_runtime(load_backend(backend, device, threads), policy, kernels)
    return load_checkpoint(
        rt, open_checkpoint(pull(str(name_or_path), home=home)), adapter, context
    )


def load_checkpoint(
    rt: Runtime,
    checkpoint: Checkpoint,
    adapter: str | Path | None = None,
    context: int | None = None,
) -> LanguageModel:
    """The model of an open checkpoint.

    Args:
        rt: where its parameters go, and their dtypes.
        checkpoint: the open checkpoint.
        adapter: as `load` takes it.
        context: as `load` takes it.

    Raises:
        RequestError: the model cannot have such a context.
        CheckpointError, TokenizerError: weights, tokenizer or adapter are missing, malformed or not supported.
        OutOfMemoryError: the device has less free memory than the parameters take.
    """
    config = checkpoint.config
    if context is not None:
        config = config.with_context(context)
    if checkpoint.gguf_metadata is None:
        tokenizer = Tokenizer.from_directory(checkpoint.path)
    else:
        tokenizer = Tokenizer.from_gguf(checkpoint.gguf_metadata)
    with memory_faults(rt.backend, "the parameters", LOAD_ADVICE):
        params = load_params(checkpoint, rt)
        if adapter is not None:
            tensors = read_adapter(Path(adapter), config)
            params = merge_adapter(rt, params, tensors)
            config = adapted_config(config, tensors)
    return LanguageModel(config, params, rt, tokenizer)


def _is_prompt(value: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    return isinstance(value, str) or (len(value) > 0 and isinstance(value[0], Integral))
