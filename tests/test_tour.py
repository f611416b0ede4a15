"""docs/tour.md, held to the calls that Python makes."""

import ast
import re
from dataclasses import replace

import pytest

from tests.calls import crossings
from tests.cli.conftest import write_tiny
from tests.generate.tiny import tiny_model
from tests.paths import ROOT
from tests.test_layering import MAX_FUNCTION_LINES, tree_of
from tests.train.runs import start, tiny_recipe
from xplm.backend import load_backend
from xplm.checkpoint.opening import open_checkpoint
from xplm.cli.main import main
from xplm.language_model import LanguageModel, load_checkpoint
from xplm.runtime import make_runtime
from xplm.train.optimizers import find_optimizer
from xplm.train.step import train_step

PAGE = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
CALL = re.compile(r"`([\w/]+\.py: [\w.]+)`")
MOST_CALLS = 15
"""From a token id to text."""


def section(title):
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return text


def walk(title):
    """The calls of a list, in its order."""
    return re.findall(rf"^\d+\. {CALL.pattern}: ", section(title), re.MULTILINE)


def beginnings(title):
    """The functions that a walk begins in, which the library's user calls."""
    return set(CALL.findall(section(title).partition("\n1. ")[0]))


def on_the_side(title):
    return set(CALL.findall(section(title).partition("\nOn the side: ")[2].partition("\n\n")[0]))


def portable(policy="fp32"):
    return make_runtime(load_backend("numpy"), policy, "portable")


def a_token(tmp_path):
    tiny = tiny_model()
    lm = LanguageModel(tiny.config, tiny.params, portable(), tiny.tokenizer)
    stream = lm.stream("Hello", max_new_tokens=8)
    for _ in range(3):  # the prompt, and steps that bind
        next(stream)
    return lambda: next(stream)


def a_gradient(tmp_path):
    trainer = start(tiny_recipe(tmp_path), tmp_path / "run")
    batches = [trainer.job.dataset.batch(0)]
    task, state = trainer.job.task, trainer.state
    trainer.close()
    rt = portable(task.rt.policy)
    task = replace(task, rt=rt, optimizer=find_optimizer("adamw"))
    return lambda: train_step(task, state, batches)


def a_weight(tmp_path):
    rt = make_runtime(load_backend("numpy"), "fp32")
    checkpoint = open_checkpoint(write_tiny(tmp_path / "tiny"))
    return lambda: load_checkpoint(rt, checkpoint).engine.logits([2, 3])


def a_dtype(tmp_path):
    model = str(write_tiny(tmp_path / "tiny"))
    arguments = ["generate", "Hello", "--model", model, "--policy", "bf16", "--max-new-tokens", "2"]
    assert main(arguments) == 0  # modules that are imported as they are needed
    return lambda: main(arguments)


WALKS = {
    "A token id to text": a_token,
    "A gradient to AdamW": a_gradient,
    "A weight from shard to kernel": a_weight,
    "A dtype from flag to cast": a_dtype,
}


@pytest.fixture
def calls_of(tmp_path, monkeypatch):
    monkeypatch.setattr("xplm.cli.ahead._start", lambda arguments: None)  # no process beside this
    return lambda title: crossings(WALKS[title](tmp_path))


def test_the_page_has_these_walks():
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == list(WALKS)


@pytest.mark.parametrize("title", WALKS)
def test_the_lines_are_calls_in_the_order_in_which_they_happen(title, calls_of):
    """Each call on the stack of a line is on a line before it, but for the one that the walk begins in."""
    calls = iter(calls_of(title))
    lines, begins = walk(title), set()
    for number, line in enumerate(lines, 1):
        above = set(lines[:number])
        stack = next(
            (stack for stack in calls if stack[-1] == line and set(stack[1:]) <= above), None
        )
        assert stack, f"{line} is not called next by functions on the lines before it"
        begins.add(stack[0])
    assert begins - set(lines) == beginnings(title)


@pytest.mark.parametrize("title", WALKS)
def test_no_function_of_a_walk_is_long(title):
    """With its signature and its docstring."""
    for call in walk(title):
        file, name = call.split(": ")
        path = ROOT / ("" if file.startswith("backends/") else "xplm") / file
        *_, owner = name.split(".")
        (function,) = [
            node
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef) and node.name == owner
        ]
        assert function.end_lineno - function.lineno + 1 <= MAX_FUNCTION_LINES, call


def test_from_a_token_id_to_text_nothing_is_left_out(calls_of):
    (title, *_) = WALKS
    calls = {stack[-1] for stack in calls_of(title)}
    lines = walk(title)
    assert calls == {*lines, *on_the_side(title)}
    assert len(lines) == len(set(lines)) <= MOST_CALLS
