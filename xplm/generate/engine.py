"""The decoder as generation sees it: token ids in, logits on the host out, through a KV cache.

A long prompt is fed in chunks, so that what a forward pass holds at once is bounded by the chunk and not by the prompt.
Prompts of unequal length share a batch: each row has a length of its own in the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from xplm.cache import ADVICE, KVCache
from xplm.config import DecoderConfig
from xplm.errors import ContextError, RequestError
from xplm.generate.memory import count_logits, plan_generation
from xplm.generate.options import is_integer
from xplm.generate.prompts import Ids, require_ids
from xplm.layers.step import Steps
from xplm.models import decoder
from xplm.out_of_memory import memory_faults, require_memory
from xplm.page_pool import PagePool, PageRow
from xplm.paged_cache import PagedCache
from xplm.progress import READING, OnProgress, unseen
from xplm.rope_scaling import has_long_factors
from xplm.runtime import Runtime
from xplm.specs import RopeSpec
from xplm.typing import Array, Params


@dataclass(frozen=True)
class Engine:
    """A decoder, its parameters, and where to run it."""

    rt: Runtime
    config: DecoderConfig
    params: Params = field(repr=False)
    chunk_tokens: int = 512  # prompt tokens to a forward pass
    progress: OnProgress = unseen  # is given the tokens read of a prompt of several chunks

    @cached_property
    def steps(self) -> Steps:
        """What takes single tokens through the decoder's blocks."""
        return Steps(self.rt, self.config, self.params)

    @property
    def context(self) -> int:
        """The most tokens that a sequence can hold."""
        return self.config.context_length

    def has_long_factors(self, length: int) -> bool:
        """Whether a sequence of `length` tokens is rotated by the long factors of longrope."""
        return any(has_long_factors(rope, length) for rope in self._ropes)

    @cached_property
    def _ropes(self) -> tuple[RopeSpec, ...]:
        return self.config.ropes

    def outgrows(self, length: int, count: int) -> bool:
        """Whether `count` tokens more make a sequence of `length` longer than longrope was trained on.

        Then its keys must be computed again.
        """
        return length > 0 and self.has_long_factors(length + count) != self.has_long_factors(length)

    def check_ids(self, ids: Ids) -> list[int]:
        """Refuse what the decoder cannot read.

        Args:
            ids: one sequence of token ids.

        Returns:
            The ids.

        Raises:
            RequestError: no list of ids, none, more than the context holds, or one that is not an integer of the
                vocabulary.
        """
        require_ids(ids)
        if len(ids) == 0:
            raise RequestError("a prompt must hold at least one token; got none")
        if len(ids) > self.context:
            raise ContextError(
                f"a prompt must fit the model's context of {self.context} tokens; got {len(ids)} tokens; "
                "shorten it"
            )
        self.require_known("token ids", ids)
        return [int(i) for i in ids]

    def require_known(self, name: str, ids: Ids) -> None:
        """Refuse ids that are no integers of the vocabulary.

        Args:
            name: what they are, for the message.
            ids: token ids.

        Raises:
            RequestError: one is not an integer, or is outside the vocabulary.
        """
        for i in ids:
            if not is_integer(i) or not 0 <= i < self.config.vocab_size:
                raise RequestError(
                    f"{name} must be integers, at least 0 and below {self.config.vocab_size}; got {i}"
                )

    def require_memory(
        self, batch: int, prompt_tokens: int, new_tokens: int, *, has_cache: bool = False
    ) -> None:
        """Refuse a generation that needs more than the device's free memory.

        Args:
            batch: rows.
            prompt_tokens: of a row.
            new_tokens: of a row, at most.
            has_cache: a cache of this size is allocated already.

        Raises:
            OutOfMemoryError: cache, activations and logits do not fit.
        """
        plan = plan_generation(
            self,
            self.rt.backend.memory(),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            batch=batch,
        )
        parts = plan.peak.parts
        needed = plan.peak.n_bytes - parts["weights"] - (parts["cache"] if has_cache else 0)
        what = f"key/value cache and activations of {batch} x {prompt_tokens + new_tokens} tokens"
        require_memory(self.rt.backend, needed, what, ADVICE)

    def require_logits_memory(self, n_tokens: int, *, copies: int = 0) -> None:
        """Refuse logits at every position of a sequence that need more than the device's free memory.

        Args:
            n_tokens: of the sequence.
            copies: arrays of their shape that the caller makes of them.

        Raises:
            OutOfMemoryError: activations and logits do not fit.
        """
        needed = count_logits(self.rt, self.config, n_tokens, copies=copies)
        what = f"the logits of {n_tokens} positions and their activations"
        require_memory(self.rt.backend, needed, what, "take fewer tokens at once, or free memory")

    def allocate(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for `batch` rows of `capacity` tokens.

        Raises:
            OutOfMemoryError: the device's free memory cannot hold it.
        """
        needed = KVCache.count_bytes(self.rt, self.config, batch, capacity)
        what = f"the keys and values of {batch} x {capacity} tokens"
        require_memory(self.rt.backend, needed, what, ADVICE)
        return KVCache.allocate(self.rt, self.config, batch, capacity)

    def feed(self, cache: KVCache, rows: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
        """Run the next tokens of every row, and keep their keys and values.

        Args:
            cache: what the rows hold so far; each grows by its tokens. It needs room for the longest row and the most
                tokens of any row together.
            rows: B of token ids, at least one each.

        Returns:
            (B, V) float32, the logits after each row's last token.

        Raises:
            OutOfMemoryError: an allocation failed.
        """
        counts = np.asarray([len(row) for row in rows])
        ids, n_tokens = fill_up(rows), int(counts.max())
        ends = [n + len(row) for n, row in zip(cache.lengths, rows, strict=True)]
        last = np.empty((len(rows), self.config.vocab_size), np.float32)
        faults = memory_faults(self.rt.backend, "the activations of a batch", ADVICE)
        with self.rt.backend.computing(), faults:
            for begin in range(0, n_tokens, self.chunk_tokens):
                if n_tokens > self.chunk_tokens:
                    self.progress(READING, begin, n_tokens)
                chunk = ids[:, begin : begin + self.chunk_tokens]
                read = np.clip(counts - begin, 0, chunk.shape[1])
                logits = decoder.forward(
                    self.rt,
                    self.config,
                    self.params,
                    self._to_device(chunk),
                    cache,
                    counts=read.tolist(),
                    ends=ends,
                    last_only=True,
                    steps=self.steps,
                )
                is_last = (counts > begin) & (counts <= begin + chunk.shape[1])
                if is_last.any():
                    last[is_last] = self._to_host(logits)[is_last, -1]
            if n_tokens > self.chunk_tokens:
                self.progress(READING, n_tokens, n_tokens)
        return last

    def read(
        self,
        pool: PagePool,
        rows: Sequence[PageRow],
        ids: Sequence[Sequence[int]],
        ends: Sequence[int],
        *,
        last_only: bool = True,
    ) -> np.ndarray:
        """Run the next tokens of rows of a pool in one pass, and keep their keys and values.

        Args:
            pool: holds the rows, which have room for the tokens.
            rows: B of them.
            ids: of each the tokens, as many for all.
            ends: of each the length by which they are rotated (`xplm.models.decoder.forward`).
            last_only: give the logits after each row's last token alone.

        Returns:
            (B, V) float32, the logits after each row's last token; or (B, T, V), those after every token.

        Raises:
            OutOfMemoryError: an allocation failed; the rows are as before.
        """
        faults = memory_faults(self.rt.backend, "the activations of a batch", ADVICE)
        with pool.lock, self.rt.backend.computing(), faults:
            cache = PagedCache(self.rt, pool, rows, ids)
            logits = decoder.forward(
                self.rt,
                self.config,
                self.params,
                self._to_device(np.asarray(ids)),
                cache,
                ends=ends,
                last_only=last_only,
                steps=self.steps,
            )
            logits = self._to_host(logits)
        return logits[:, -1] if last_only else logits

    def read_on(
        self, pool: PagePool, rows: Sequence[PageRow], ids: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """As `read`, of any number of tokens, in chunks, and with the pages taken; the pool has no limit."""
        n_tokens = len(ids[0])
        ends = [row.length + n_tokens for row in rows]
        for row in rows:
            assert row.reserve(n_tokens), "a pool without a limit has room"
        for begin in range(0, n_tokens, self.chunk_tokens):
            if n_tokens > self.chunk_tokens:
                self.progress(READING, begin, n_tokens)
            chunk = [own[begin : begin + self.chunk_tokens] for own in ids]
            logits = self.read(pool, rows, chunk, ends)
        if n_tokens > self.chunk_tokens:
            self.progress(READING, n_tokens, n_tokens)
        return logits

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits after every token of one sequence, in one pass without a cache.   ids (T,)  ->  (T, V) float32

        Raises:
            OutOfMemoryError: they do not fit the device's free memory.
        """
        self.require_logits_memory(len(ids))
        faults = memory_faults(self.rt.backend, "the logits of a text", "take fewer tokens at once")
        with self.rt.backend.computing(), faults:
            chunk = self._to_device(np.asarray([ids]))
            return self._to_host(decoder.forward(self.rt, self.config, self.params, chunk))[0]

    def _to_device(self, ids: np.ndarray) -> Array:
        return self.rt.backend.from_host(np.ascontiguousarray(ids, dtype=np.int64))

    def _to_host(self, logits: Array) -> np.ndarray:
        return self.rt.backend.to_host(logits).astype(np.float32, copy=False)


def fill_up(rows: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """One array (B, T) int64 of B sequences of token ids; shorter ones repeat their last id."""
    longest = max(len(row) for row in rows)
    filled = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
    return np.asarray(filled, np.int64)
