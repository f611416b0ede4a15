"""`xplm eval TASK`, with a harness in the place of lm-eval's; tests/evaluate has lm-eval itself."""

import logging
import sys
from types import ModuleType

import pytest

from xplm.cli import eval_task
from xplm.evaluate.questions import Questions
from xplm.evaluate.report import Row
from xplm.evaluate.subject import Asking


class Tasks:
    """A likelihood and an answer; prints, and warns, as lm-eval does."""

    def __init__(self, came):
        self.came = came

    def ask(self, subject, asking):
        self.came.append(asking)
        sys.stdout.write("a stray line\n")
        logging.getLogger("lm_eval").warning("a warning")
        questions = Questions(subject)
        ((logprob, _),) = questions.likelihoods([("x" * 400, " yes")])
        (answer,) = questions.answers([("hello", {"max_gen_toks": 9})])
        rows = [Row("mine", "loglikelihood", "", logprob, None, 1)]
        return [*rows, Row("mine", "length", "", float(len(answer)), 0.5, 1)], questions.n_cut


@pytest.fixture
def came(monkeypatch):
    """What came to a harness, in a process that has every library."""
    arguments = []

    def load_tasks(names, include_path):
        arguments.append((names, include_path))
        return Tasks(arguments)

    fake = ModuleType("xplm.evaluate.harness")
    fake.load_tasks = load_tasks
    monkeypatch.setitem(sys.modules, "xplm.evaluate.harness", fake)
    monkeypatch.setattr(eval_task, "find_spec", lambda name: True)
    monkeypatch.setattr(eval_task, "LIBRARY_SETTINGS", {})
    return arguments


def test_a_task_is_asked_of_a_model_here_and_behind_a_server(xplm, came, tiny_directory):
    from tests.serve.client import NAME, live  # which skips without the extra "serve"
    from xplm.language_model import load

    here = xplm("eval", "mine", "--model", tiny_directory, "--limit", 5, "--chat", "--json")
    assert here.code == 0
    lm = load(tiny_directory, kernels="invariant")
    with live(lm) as (address, _):
        there = xplm("eval", "--server", address, "task", "--json")
        assert there.code == 0
        table = xplm("eval", "task", "mine", "--server", address)
    assert came[:2] == [(["mine"], None), Asking(limit=5, is_chat=True)]
    assert came[2:4] == [(["task"], None), Asking()]

    assert there.json["results"] == here.json["results"]
    assert here.json["results"][1] | {"value": 0} == Row("mine", "length", "", 0, 0.5, 1)._asdict()
    assert (here.json["model"], there.json["model"]) == (str(tiny_directory), NAME)
    for outcome in (here, there):
        facts = [outcome.json[name] for name in ("policy", "backend", "is_invariant")]
        assert facts == ["fp32", "numpy", True]
        assert outcome.json["prompt_tokens"] == 255 + 5
    assert (here.json["limit"], here.json["is_chat"], here.json["server"]) == (5, True, None)

    lines = table.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["task", "metric"],
        ["mine", "loglikelihood"],
        ["length", lines[2].split()[1]],
    ]
    assert lines[3:] == [f"{NAME} at {address}: fp32 on numpy, order-invariant kernels"]
    told = " ".join(table.stderr.split())
    assert "a stray line" in told
    assert "lm-eval: a warning" in told
    assert "1 prompts did not fit the context of 256" in told
    assert "tokens/s: 260 of prompts, 0 of these reused, and " in told


def test_the_mode_may_be_turned_off(xplm, came, tiny_directory):
    given = ("--model", tiny_directory, "--no-invariant", "--num-fewshot", 2, "--seed", 7)
    outcome = xplm("eval", "mine", *given, "--system", "Be brief.", "--json", "--quiet")
    assert outcome.json["is_invariant"] is False
    assert came[1] == Asking(num_fewshot=2, seed=7, system="Be brief.")
    assert "warning" not in outcome.stderr


def test_without_the_extra_it_says_what_to_install(xplm, monkeypatch):
    there = lambda name: None if name == "lm_eval" else True  # noqa: E731
    monkeypatch.setattr(eval_task, "find_spec", there)
    assert "needs lm_eval; run: pip install" in xplm("eval", "arc_easy").error


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["mine", "--server", "http://localhost:1", "--model", "x"], "leave out --model"),
        (["mine", "--server", "http://localhost:1", "--threads", 2], "leave out --threads"),
        (["mine", "--api-key-file", "keys"], "give --server"),
        (["mine", "--model", "/nonesuch"], "check its spelling"),
        (
            ["mine", "--server", "http://localhost:1", "--api-key-file", "/nonesuch"],
            "a file of API",
        ),
        (["mine", "--limit", 0], "'--limit'"),
        (["perplexty", "--text", "x"], "Did you mean 'perplexity'?"),
        (["--limit", 3], "Missing argument"),
    ],
)
def test_bad_usage(xplm, came, arguments, fragment):
    assert fragment in xplm("eval", *arguments).error


def test_the_help_names_tasks_and_commands(xplm):
    shown = xplm("eval").stdout
    assert "xplm eval TASK" in " ".join(shown.split())
    for name in ("perplexity", "recall", "task"):
        assert name in shown
    assert "--server" in xplm("eval", "mine", "--help").stdout
