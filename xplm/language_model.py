"""A language model, ready to use: the Python interface that scripts and the command line are written against."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np

from xplm.backend import load_backend
from xplm.checkpoint.adapter import adapted_config, merge_adapter, read_adapter
from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.load import LOAD_ADVICE, load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.pull import pull
from xplm.checkpoint.sampling import NO_SAMPLING, ModelSampling, read_sampling
from xplm.config import DecoderConfig
from xplm.errors import RequestError, refuse_unknown_keywords
from xplm.generate.chat_format import ChatFormat
from xplm.generate.embed import embed
from xplm.generate.engine import Engine
from xplm.generate.fragility import AGAINST, TokenFragility, measure_fragility
from xplm.generate.options import BatchKeywords, SamplingKeywords, make_options
from xplm.generate.perplexity import Perplexity, compute_perplexity
from xplm.generate.prompts import Ids, Prompt, is_ids, refused_prompt, require_ids, split_batch
from xplm.generate.reply import Reply, start_reply
from xplm.generate.request import Request, sum_timings
from xplm.generate.result import Generation
from xplm.generate.scheduler import generate_steps
from xplm.generate.session import Chat
from xplm.generate.stream import TextStream, stream_reply
from xplm.models.decoder import param_specs
from xplm.models.gradient import text_loss_and_grads
from xplm.out_of_memory import memory_faults
from xplm.params import count_params
from xplm.precision import Policy
from xplm.progress import OnProgress, unseen
from xplm.runtime import Runtime, make_runtime
from xplm.text.faults import described, require_text
from xplm.text.tokenizer import Tokenizer
from xplm.text.unknown import count_left_out, count_unknown
from xplm.typing import Params


class LanguageModel:
    """A decoder with its parameters and its tokenizer; `xplm.load` makes one."""

    def __init__(
        self,
        config: DecoderConfig,
        params: Params,
        rt: Runtime,
        tokenizer: Tokenizer,
        progress: OnProgress = unseen,
        stored_as: str = "",
        sampling: ModelSampling = NO_SAMPLING,
    ) -> None:
        """Put the parts together.

        Args:
            config: the decoder's.
            params: its parameters under Hugging Face names, on the runtime's backend.
            rt: backend, kernels and dtypes.
            tokenizer: the model's.
            progress: called as a long prompt or a text to score is read.
            stored_as: how its checkpoint stores matrices, such as "BF16" or "Q4_1, Q8_0"; empty for none.
            sampling: the values that the model's files suggest; `xplm chat` takes them, and nothing else does.
        """
        self.config = config
        """The decoder's configuration."""
        self.params = params
        """Parameters by Hugging Face name, on the backend's device."""
        self.rt = rt
        """Backend, kernels and policy."""
        self.tokenizer = tokenizer
        """Text to token ids and back."""
        self.stored_as = stored_as
        """How its checkpoint stores matrices: "BF16", or "Q4_1, Q8_0"; empty for a model without one."""
        self.sampling = sampling
        """The sampling values that the model's files suggest."""
        self.engine = Engine(rt, config, params, progress=progress)
        """The decoder as generation calls it."""

    def __repr__(self) -> str:
        """Family, size, context, policy and place."""
        size = f"{count_params(param_specs(self.config)):,} parameters"
        place = f"{self.rt.backend.name} on {self.rt.backend.device_name}"
        return (
            f"LanguageModel({self.config.model_type}, {size}, context {self.engine.context}, "
            f"{self.rt.policy}, {place})"
        )

    @refuse_unknown_keywords
    def logits(self, ids: Ids) -> np.ndarray:
        """The model's scores for the token after each position.

        Args:
            ids: T token ids, in a list or a 1-D NumPy array.

        Returns:
            (T, V) float32, on the host.

        Raises:
            RequestError: no ids, more than the context holds, or one outside the vocabulary.
        """
        return self.engine.logits(self.engine.check_ids(ids))

    @refuse_unknown_keywords
    def loss_and_grads(self, text: Prompt) -> tuple[float, Params]:
        """The loss of a text, and its gradient with respect to every parameter.

        Args:
            text: the text, or its token ids; at least 2 ids.

        Returns:
            The mean of -log p over every id but the first, and the gradients: each under its parameter's name, with
            its shape and dtype, as an array of the backend. Tied tables have one, the sum of both.

        Raises:
            RequestError: the text is too short or fills more than the context, or has an unknown id.
            OutOfMemoryError: the pass does not fit the device's free memory.
        """
        ids = self.engine.check_ids(self._ids_of(text))
        return text_loss_and_grads(self.rt, self.config, self.params, ids)

    @overload  # a str is a sequence of str too; the first match applies
    def generate(  # type: ignore[overload-overlap]
        self, prompts: Prompt, **options: Unpack[SamplingKeywords]
    ) -> Generation: ...

    @overload
    def generate(
        self, prompts: Sequence[Prompt], **options: Unpack[BatchKeywords]
    ) -> list[Generation]: ...

    def generate(
        self, prompts: Prompt | Sequence[Prompt], **options: Unpack[BatchKeywords]
    ) -> Generation | list[Generation]:
        """Continue a prompt, or several at once.

        Args:
            prompts: one prompt, a text or its token ids, or a list of prompts. A list is generated as one batch, and
                each result is what its prompt gives by itself, up to rounding.
            options: any of the fields of SamplingOptions. For a list of prompts, `seed` may be a list too, with a
                seed for each.

        Returns:
            The reply; for a list of prompts a list, in the same order.

        Raises:
            RequestError: an option is out of range, or a prompt is empty, fills the context, or has an unknown id.
        """
        batch = split_batch(prompts)
        if batch is None:
            return self._stream(self._start(prompts, options)).finish()

        seed = options.get("seed", 0)
        seeds = [*seed] if isinstance(seed, list | tuple) else [seed] * len(batch)
        if len(seeds) != len(batch):
            raise RequestError(
                f"a list of seeds must have one for each of {len(batch)} prompts; got {len(seeds)}"
            )
        replies = [
            self._start(prompt, {**options, "seed": own})
            for prompt, own in zip(batch, seeds, strict=True)
        ]
        if not replies:
            return []
        if replies[0].options.num_beams > 1:  # the beams of one prompt are a batch already
            return [self._stream(reply).finish() for reply in replies]

        prompt_tokens = max(len(reply.prompt_ids) for reply in replies)
        new_tokens = max(reply.max_tokens for reply in replies)
        self.engine.require_memory(len(replies), prompt_tokens, new_tokens)
        requests = [Request(reply) for reply in replies]
        for _ in generate_steps(self.engine, requests):
            pass
        timings = sum_timings(requests)
        return [reply.result(timings) for reply in replies]

    def stream(self, prompt: Prompt, **options: Unpack[SamplingKeywords]) -> TextStream:
        """Continue a prompt, and read the text as it comes.

        Args:
            prompt: text, or token ids.
            options: any of the fields of SamplingOptions.

        Returns:
            Pieces of text, none of them a part of a character; then its `result` is the whole reply.

        Raises:
            RequestError: an option is out of range, or the prompt is empty, fills the context, or has an unknown id.
        """
        return self._stream(self._start(prompt, options))

    @refuse_unknown_keywords
    def chat(
        self, system: str | None = None, template_args: Mapping[str, Any] | None = None
    ) -> Chat:
        """Start a conversation.

        Args:
            system: the system message; None for what the model's template says by itself.
            template_args: further names that the chat template reads, such as {"enable_thinking": False}.

        Raises:
            RequestError: the system message is no text, or the template reads no such name.
            TemplateError: the model has no chat template, or one that is not valid.
        """
        if system is not None:
            require_text("a system message", system)
        if template_args is not None and not isinstance(template_args, Mapping):
            raise RequestError(
                f"template arguments are a dict of names and values; got {described(template_args)}"
            )
        chat_format = ChatFormat(self.tokenizer, self.engine.context)
        return Chat(self.engine, chat_format, system, template_args)

    @refuse_unknown_keywords
    def perplexity(self, text: Prompt, *, window: int | None = None) -> Perplexity:
        """How well the model predicts a text, cut into windows that are scored alone.

        Args:
            text: the text, or its token ids.
            window: token ids to a window; None: the smaller of 512 and the model's context.

        Returns:
            The perplexity, and how much of the text the tokenizer lacks.

        Raises:
            RequestError: the window is below 2 or beyond the context, or the text has fewer than 2 ids.
        """
        ids = self.tokenizer.encode_long(text) if isinstance(text, str) else self._ids_of(text)
        found = compute_perplexity(self.engine, ids, window)
        return found._replace(
            unknown_tokens=count_unknown(self.tokenizer, np.asarray(ids)),
            lost_characters=count_left_out(self.tokenizer, [text]) if isinstance(text, str) else 0,
        )

    @refuse_unknown_keywords
    def embed(self, texts: Prompt | Sequence[Prompt]) -> np.ndarray:
        """Texts as vectors (C,), or (N, C) for a list, in float32: means of the decoder's last states over tokens.

        Args:
            texts: one text, or its token ids, or a list of these.

        Raises:
            RequestError: a text is empty, fills more than the context, or has an unknown id.
        """
        batch = split_batch(texts)
        if batch is None:
            return embed(self.engine, self._ids_of(texts))
        vectors = [embed(self.engine, self._ids_of(text)) for text in batch]
        return np.stack(vectors) if vectors else np.empty((0, self.config.hidden_size), np.float32)

    @refuse_unknown_keywords
    def fragility(
        self, prompt: Prompt, token_ids: Ids, against: str | Policy = AGAINST
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
        require_ids(token_ids)
        (tokens,) = measure_fragility(
            self.engine, [self._ids_of(prompt)], [list(token_ids)], against
        )
        return tokens

    def _ids_of(self, prompt: object) -> list[int]:
        if isinstance(prompt, str):
            self.tokenizer.require_fit(prompt, self.engine.context)
            return self.tokenizer.encode(prompt)
        if not is_ids(prompt):
            raise refused_prompt(prompt)
        require_ids(prompt)
        return list(prompt)

    def _start(self, prompt: object, options: Mapping[str, object]) -> Reply:
        return start_reply(
            self.engine,
            self.tokenizer,
            self._ids_of(prompt),
            make_options(options),
            continues_prompt=True,
        )

    def _stream(self, reply: Reply) -> TextStream:
        return TextStream(stream_reply(self.engine, Request(reply)))


@refuse_unknown_keywords
def load(
    name_or_path: str | Path,
    device: str = "cpu",
    policy: str | Policy = "fp32",
    backend: str | None = None,
    kernels: str = "fused",
    home: str | Path | None = None,
    adapter: str | Path | None = None,
    threads: int | None = None,
    context: int | None = None,
    progress: OnProgress | None = None,
    blas: str | None = None,
) -> LanguageModel:
    """Load a model, which is fetched first if its name is known and it is not on this machine.

    Args:
        name_or_path: a known name ("smollm2-135m-instruct:q4_1"), a Hugging Face directory or hub id, or a GGUF
            file.
        device: "cpu", "cuda" or "cuda:N".
        policy: dtypes: a Policy, or a text such as "fp32", "fp16", "bf16", "fp8" or "bf16,softmax=bf16".
        backend: an installed backend's name; None for the device's default.
        kernels: "fused", "portable" for the reference source alone, or "invariant" for the same bits in any batch.
        home: where fetched models are kept; None for the platform's user cache directory.
        adapter: a directory in PEFT's layout, whose low-rank adapters are merged into the model.
        threads: CPU threads that the model computes on, while it does; None leaves that to the backend's library.
        context: the most tokens of a sequence; None for what the model's configuration says. More than that is allowed
            where positions are not learned, with a warning.
        progress: called as progress(what, done, total) during long work: with bytes as the model is fetched and
            its parameters are loaded, with tokens as a long prompt or a text for `perplexity` is read; total is None
            where it is not known. Kernels that are compiled, once on a machine, are lines of the log "xplm.progress".
        blas: what multiplies matrices: "openblas", "mkl" (an extra) or "numpy"; None for the fastest here.

    Returns:
        The model, its parameters in the device's memory.

    Raises:
        RequestError: an argument is of another type, the policy or kernels are not among those above, the model
            cannot have such a context, or a keyword is unknown.
        BackendError: the backend, the device, the blas or a dtype is missing, or the backend cannot take so many
            threads.
        CheckpointError, ConfigError, TokenizerError: the model's files are missing, malformed or not supported.
        DownloadError: the model has to be fetched, and cannot be.
        OutOfMemoryError: the device has less free memory than the parameters take.
    """
    paths = {"a model": name_or_path, "home": home or "", "adapter": adapter or ""}
    for what, value in paths.items():
        if not isinstance(value, str | PathLike):
            raise RequestError(f"{what} is a text or a Path; got {described(value)}")
    if progress is not None and not callable(progress):
        raise RequestError(
            f"progress is a function of (what, done, total); got {described(progress)}"
        )
    rt = make_runtime(load_backend(backend, device, threads, blas), policy, kernels)
    path = pull(str(name_or_path), home=None if home is None else Path(home), progress=progress)
    return load_checkpoint(rt, open_checkpoint(path), adapter, context, progress=progress or unseen)


def load_checkpoint(
    rt: Runtime,
    checkpoint: Checkpoint,
    adapter: str | Path | None = None,
    context: int | None = None,
    progress: OnProgress = unseen,
) -> LanguageModel:
    """The model of an open checkpoint.

    Args:
        rt: where its parameters go, and their dtypes.
        checkpoint: the open checkpoint.
        adapter: as `load` takes it.
        context: as `load` takes it.
        progress: likewise.

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
        params = load_params(checkpoint, rt, progress)
        if adapter is not None:
            tensors = read_adapter(Path(adapter), config)
            params = merge_adapter(rt, params, tensors)
            config = adapted_config(config, tensors)
    return LanguageModel(
        config, params, rt, tokenizer, progress, checkpoint.stored_as, read_sampling(checkpoint)
    )
