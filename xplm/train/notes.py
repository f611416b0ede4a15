"""What a run does otherwise than its recipe says, a line each: data that it loses, settings that it does not read."""

from xplm.errors import TemplateError
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer
from xplm.text.unknown import describe_unknown
from xplm.train.data import Dataset
from xplm.train.recipe import ModelRecipe, Recipe, unread_tokenizer_settings

NOUNS = {"text": "windows", "lines": "lines", "chat": "chats"}
"""What examples are called, by the kind of data."""


def run_notes(recipe: Recipe, tokenizer: Tokenizer, dataset: Dataset, steps: int) -> list[str]:
    """All that is to be said before a run.

    Args:
        recipe: what to do.
        tokenizer: the run's.
        dataset: what its data came to.
        steps: of the whole run.
    """
    report = dataset.report
    return [
        *_unread(recipe),
        *_lost(recipe, dataset),
        *describe_unknown(tokenizer, report.n_unknown, report.n_tokens, report.n_lost_chars),
        *(_opening(tokenizer) if recipe.data.kind == "chat" else ()),
        *_schedule(recipe, steps),
    ]


def _unread(recipe: Recipe) -> list[str]:
    data, train = recipe.data, recipe.train
    notes = []
    if train.init and recipe.model != ModelRecipe():
        notes.append(f"[model] is not read: the model is that of {train.init}")
    if unread := unread_tokenizer_settings(recipe):
        owner = train.init or data.tokenizer
        notes.append(f"not read, for the tokenizer is that of {owner}: {', '.join(unread)}")
    if data.packed and data.kind == "text":
        notes.append("data.packed is not read: a text is cut into windows")
    if train.steps and train.epochs:
        notes.append(f"train.epochs is not read: train.steps is {train.steps:,}")
    return notes


def _lost(recipe: Recipe, dataset: Dataset) -> list[str]:
    data, report = recipe.data, dataset.report
    context, noun = data.context, NOUNS[data.kind]
    of_all = f"of {report.n_examples:,} {noun}"
    notes = []
    if cut := report.n_cut:
        notes.append(
            f"{cut:,} {of_all} are longer than data.context, {context}, and lose their end"
        )
    if left_out := report.n_left_out:
        notes.append(
            f"{left_out:,} {of_all} have nothing to learn within data.context, {context}, and are left out"
        )
    if not data.held_out:
        notes.append("no validation: data.held_out is 0")
    elif not len(dataset.held_out):
        notes.append(
            f"no validation: data.held_out, {data.held_out:g}, of {dataset.n_examples:,} {noun} is none; "
            "hold out more"
        )
    return notes


def _opening(tokenizer: Tokenizer) -> list[str]:
    """What opens a reply at inference, and is not in front of the replies to learn."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        template = ChatEncoder(tokenizer).template
        opened = template.render(turns[:1])
        learned = template.render(turns, add_generation_prompt=False)
    except TemplateError:  # it takes other chats than this one
        return []
    common = opened
    while not learned.startswith(common):
        common = common[:-1]
    lacking = opened.removeprefix(common)
    if not lacking:
        return []
    return [
        f"the template opens a reply with {lacking!r:.80}, which the replies to learn do not begin with: "
        "at inference the model follows what it has not seen in training"
    ]


def _schedule(recipe: Recipe, steps: int) -> list[str]:
    warmup, lr = recipe.schedule.warmup_steps, recipe.schedule.lr
    if warmup < steps:
        return []
    return [
        f"the warm-up, {warmup:,} steps, does not end within the run, {steps:,} steps: "
        f"the learning rate reaches {lr * steps / (warmup + 1):.2e}, not {lr:.2e}"
    ]
