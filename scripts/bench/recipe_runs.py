"""`xplm train` with a recipe, as a whole process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.processes import Finished, run_to_end
from xplm.train.recipe_names import find_recipe

SCRIPTS = Path(__file__).resolve().parents[1]
RECIPES = find_recipe("shakespeare-char").parent


def train_command(recipe: Path, data: Path, out: Path, threads: int, *flags: str) -> list[str]:
    """Of a run from its beginning, whose last line is JSON."""
    where = ["--out", str(out), "--threads", str(threads), "--json", "--quiet"]
    return ["-m", "xplm", "train", str(recipe), "--data", str(data), *where, *flags]


def train(recipe: Path, data: Path, out: Path, threads: int, *flags: str) -> Finished:
    """Such a run."""
    return run_to_end(train_command(recipe, data, out, threads, *flags), threads)


def run_facts(
    facts: Path,
    out: Path,
    *,
    arch: str,
    seed: int,
    threads: int,
    where: Sequence[str] = (),
    recipes: Path = RECIPES,
) -> dict[str, Any]:
    """Both phases of RustGPT's job, then every question.

    Args:
        facts: the directory of its two JSON files.
        out: where to train.
        arch: of the model.
        seed: of both phases.
        threads: of the CPU.
        where: flags of every command: --device, --backend.
        recipes: their directory.

    Returns:
        "recalled" of "asked" answers, and "seconds" of both phases.
    """
    texts, chats = facts / "pretraining_data.json", facts / "chat_training_data.json"
    first, last = out / "read", out / "tuned"
    flags = ("--set", f"data.vocab_from={chats}", "--set", f"model.arch={arch}")
    run = ("--seed", str(seed), *where)
    reading = train(recipes / "facts-pretrain.toml", texts, first, threads, *flags, *run)
    init = ("--init", str(first))
    tuning = train(recipes / "facts-chat.toml", chats, last, threads, *init, *run)
    recall = ["-m", "xplm", "eval", "recall", "--model", str(last), "--data", str(chats)]
    answers = run_to_end([*recall, *where, "--threads", str(threads), "--json"], threads).result
    return {**answers, "seconds": reading.seconds + tuning.seconds}
