"""The directory of a run: checkpoints that are whole or absent, and the newest of them under fixed names.

    .lock                        held by the process that is at work on it
    recipe.toml                  the run's recipe, every value in it
    data.sha256                  a hash of the data that it learns from
    metrics.jsonl                a line every few steps
    samples.jsonl                what the model wrote at each evaluation
    curves.png                   the metrics, drawn
    config.json model.safetensors tokenizer.json ...      the newest checkpoint's model
    checkpoints/step-00000250/   a model, and beside it the training state to go on from

A checkpoint is written under another name, flushed to the disk and renamed, so that a process or a disk that fails
leaves the checkpoints before it as they were. The model's files on top are links to the newest one's and take no space
of their own.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from xplm.checkpoint.files import (
    is_partial,
    link_or_copy,
    new_directory,
    partial_name,
    remove,
    rename,
    replacing,
    writing,
)
from xplm.checkpoint.untrusted import read_text
from xplm.errors import RequestError
from xplm.runtime import Runtime
from xplm.train.recipe import Recipe, load_recipe, to_toml
from xplm.train.state import FACTS, TENSORS, TrainState, load_state, save_state

RECIPE = "recipe.toml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
DATA = "data.sha256"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


class RunDirectory:
    """The owner of a run's directory."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is made yet."""
        self.path = path
        self._lock = FileLock(path / LOCK)

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Every checkpoint by its step, the newest last."""
        found = {}
        for path in (self.path / CHECKPOINTS).glob("step-*"):
            if match := re.fullmatch(r"step-(\d+)", path.name):
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint, or None where there is none."""
        return next(reversed(self.checkpoints.values()), None)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the run that is there, or None where there is none.

        Raises:
            RequestError: it is not a recipe.
        """
        path = self.path / RECIPE
        return load_recipe(path) if os.path.lexists(path) else None

    @property
    def data_digest(self) -> str | None:
        """The hash of the data of the run that is there, or None where there is none."""
        path = self.path / DATA
        if not os.path.lexists(path):
            return None
        try:
            return read_text(path).strip()
        except (OSError, ValueError) as cause:
            raise RequestError(f"{path} must be readable; got: {cause}; remove it") from cause

    def check(self, *, resume: bool) -> None:
        """Refuse to write over what is not this run's.

        Args:
            resume: a run may be there, and is gone on with.

        Raises:
            RequestError: a run or something else is there, or another process is at work on it.
        """
        if resume and os.path.isdir(self.path):
            self._acquire()
        if os.path.lexists(self.path / RECIPE):
            if not resume:
                raise RequestError(
                    f"{self.path} holds a run already; go on with it by --resume, or choose another --out"
                )
            return
        if os.path.exists(self.path) and not self._is_begun():
            raise RequestError(
                f"a run needs a directory of its own; {self.path} holds something else; choose another --out"
            )

    def _is_begun(self) -> bool:
        """Whether there is nothing but what a run makes before its recipe."""
        return os.path.isdir(self.path) and all(
            file.name in (CHECKPOINTS, LOCK) or is_partial(file) for file in self.path.iterdir()
        )

    def release(self) -> None:
        """Let another process have the directory. One that ends or crashes lets go of it too."""
        self._lock.release()

    def _acquire(self) -> None:
        if self._lock.is_locked:
            return
        with writing(self.path):
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise RequestError(
                    f"a run has one process; another one is at work on {self.path}; "
                    "wait for it, stop it, or choose another --out"
                ) from error

    def begin(self, recipe: Recipe, digest: str, *, resume: bool) -> None:
        """Make the directory, or take it up again without what a killed run left half written.

        Args:
            recipe: the run's, which is written into it.
            digest: the hash of its data, which is too.
            resume: as for `check`.

        Raises:
            RequestError: another process began a run there, after this one checked.
            CheckpointError: the disk refuses.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        self.check(resume=resume)
        with writing(self.path):
            (self.path / CHECKPOINTS).mkdir(exist_ok=True)
            for left in (*self.path.iterdir(), *(self.path / CHECKPOINTS).iterdir()):
                if is_partial(left):
                    remove(left)
            with replacing(self.path / RECIPE) as file:
                file.write(to_toml(recipe).encode())
            with replacing(self.path / DATA) as file:
                file.write(f"{digest}\n".encode())

    def publish_newest(self) -> None:
        """Give the newest checkpoint's model the names that a killed process did not give it.

        Raises:
            CheckpointError: the disk refuses.
        """
        with writing(self.path):
            if self.newest:
                self._publish(self.newest, only_missing=True)

    def load_newest(self, rt: Runtime) -> TrainState | None:
        """The state of the newest checkpoint, or None where there is none.

        Raises:
            CheckpointError: it is malformed.
        """
        return load_state(self.newest, rt.backend) if self.newest else None

    def save(
        self,
        state: TrainState,
        rt: Runtime,
        write_model: Callable[[Path], None],
        *,
        keep: int,
    ) -> Path:
        """Write a checkpoint, and remove old ones.

        Args:
            state: what to go on from; its step names the checkpoint.
            rt: whose arrays they are.
            write_model: writes the model into an empty directory.
            keep: how many checkpoints stay, besides the best.

        Returns:
            The checkpoint's directory.

        Raises:
            CheckpointError: the disk refuses; the checkpoints before stay as they were.
        """
        path = self.path / CHECKPOINTS / f"step-{state.step:08d}"
        if not path.exists():
            with new_directory(path) as partial:
                write_model(partial)
                save_state(partial, state, rt.backend, rt.policy.param)
        with writing(self.path):
            self._publish(path)
            self._prune(keep, state.best_step)
        return path

    def _publish(self, checkpoint: Path, *, only_missing: bool = False) -> None:
        for file in checkpoint.iterdir():
            is_there = only_missing and os.path.lexists(self.path / file.name)
            if file.name not in (TENSORS, FACTS) and not is_there:
                link_or_copy(file, self.path / file.name)

    def _prune(self, keep: int, best_step: int | None) -> None:
        """Remove all but the last checkpoints and the best, each first out of sight and then file by file."""
        checkpoints = self.checkpoints
        for step in list(checkpoints)[:-keep]:
            if step != best_step:
                hidden = partial_name(checkpoints[step])
                rename(checkpoints[step], hidden)
                remove(hidden)
