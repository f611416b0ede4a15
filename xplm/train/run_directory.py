"""The directory of a run: checkpoints that are whole or absent, and the newest of them under fixed names.

    recipe.toml                  the run's recipe, every value in it
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
import shutil
from collections.abc import Callable
from pathlib import Path

from xplm.checkpoint.files import new_directory, writing
from xplm.errors import RequestError
from xplm.runtime import Runtime
from xplm.train.recipe import Recipe, load_recipe, to_toml
from xplm.train.state import FACTS, TENSORS, TrainState, load_state, save_state

RECIPE = "recipe.toml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
PARTIAL = ".partial"


class RunDirectory:
    """The owner of a run's directory."""

    def __init__(self, path: Path) -> None:
        """Name the directory; nothing is made yet."""
        self.path = path

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Every checkpoint by its step, the newest last."""
        found = {}
        for path in (self.path / CHECKPOINTS).glob("step-*"):
            if match := re.fullmatch(r"step-(\d+)", path.name):
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the run that is there, or None where there is none.

        Raises:
            RequestError: it is not a recipe.
        """
        path = self.path / RECIPE
        return load_recipe(path) if path.exists() else None

    def check(self, *, resume: bool) -> None:
        """Refuse to write over what is not this run's.

        Args:
            resume: a run may be there, and is gone on with.

        Raises:
            RequestError: a run or something else is there.
        """
        if (self.path / RECIPE).exists():
            if not resume:
                raise RequestError(
                    f"{self.path} holds a run already; go on with it by --resume, or choose another --out"
                )
            return
        begun = {RECIPE + PARTIAL, CHECKPOINTS}
        is_ours = self.path.is_dir() and {path.name for path in self.path.iterdir()} <= begun
        if self.path.exists() and not is_ours:
            raise RequestError(
                f"a run needs a directory of its own; {self.path} holds something else; choose another --out"
            )

    def begin(self, recipe: Recipe) -> None:
        """Make the directory, or take it up again without what a killed run left half written.

        Args:
            recipe: the run's, which is written into it.

        Raises:
            CheckpointError: the disk refuses.
        """
        with writing(self.path):
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            for left_over in (self.path / CHECKPOINTS).glob(f".*{PARTIAL}"):
                shutil.rmtree(left_over)
            partial = self.path / (RECIPE + PARTIAL)
            partial.write_text(to_toml(recipe), encoding="utf-8")
            partial.replace(self.path / RECIPE)

    def load_newest(self, rt: Runtime) -> TrainState | None:
        """The state of the newest checkpoint, or None where there is none.

        Raises:
            CheckpointError: it is malformed.
        """
        checkpoints = self.checkpoints
        return load_state(checkpoints[max(checkpoints)], rt.backend) if checkpoints else None

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

    def _publish(self, checkpoint: Path) -> None:
        for file in checkpoint.iterdir():
            if file.name in (TENSORS, FACTS):
                continue
            partial = self.path / (file.name + PARTIAL)
            partial.unlink(missing_ok=True)
            try:
                os.link(file, partial)
            except OSError:  # a file system without links
                shutil.copyfile(file, partial)
            partial.replace(self.path / file.name)
            partial.unlink(missing_ok=True)  # renaming a link onto its own file does nothing

    def _prune(self, keep: int, best_step: int | None) -> None:
        """Remove all but the last checkpoints and the best, each first out of sight and then file by file."""
        checkpoints = self.checkpoints
        for step in list(checkpoints)[:-keep]:
            if step != best_step:
                hidden = checkpoints[step].with_name(f".{checkpoints[step].name}{PARTIAL}")
                checkpoints[step].replace(hidden)
                shutil.rmtree(hidden)
