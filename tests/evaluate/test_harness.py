"""lm-eval itself, on tasks that are local files: in this process, through the server, and by lm-eval's own clients."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from tests.cli.conftest import write_tiny
from tests.paths import ROOT

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason='the extra "eval" is not installed'),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason='the extra "serve" is not installed'),
]

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: {kind}
test_split: test
{more}
"""
CHOICE = """
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
LIKELIHOOD = """
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""
ANSWER = """
doc_to_text: "Question: {{question}}"
doc_to_target: "{{answer}}"
num_fewshot: 1
generation_kwargs: {until: ["zz"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: chrf}]
"""
TASKS = {
    "choice": ("multiple_choice", CHOICE),
    "whole": ("loglikelihood_rolling", ROLLING),
    "likelihood": ("loglikelihood", LIKELIHOOD),
    "answer": ("generate_until", ANSWER),
}
SAMPLED = ANSWER.replace("do_sample: false", "do_sample: true, temperature: 0.8")


def launch(*command, home):
    """A module as a process without a network, once it has ended."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'backends'}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env=os.environ | {"PYTHONPATH": paths} | offline,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run(*command, home):
    """What it prints on stdout; it must succeed."""
    done = launch(*command, home=home)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with a tiny model, tasks and their documents."""
    home = tmp_path_factory.mktemp("harness")
    write_tiny(home / "tiny")
    words = "the cat sat on a mat and saw red birds fly over cold blue water "
    choices = [" yes", " no, not at all", " a bird"]
    lines = [
        {
            "text": (words[n:] * 6)[
                : 40 + 60 * (n % 6)
            ],  # the last of them longer than the context
            "question": words[n:],
            "choices": choices,
            "gold": n % 3,
            "answer": choices[n % 3],
        }
        for n in range(12)
    ]
    data = home / "documents.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (home / "tasks").mkdir()
    for name, (kind, more) in {**TASKS, "sampled": ("generate_until", SAMPLED)}.items():
        text = TASK.format(name=name, data=data, kind=kind, more=more)
        (home / "tasks" / f"{name}.yaml").write_text(text)
    return home


@pytest.fixture(scope="module")
def server(home):
    with serving(home) as address:
        yield address


@contextmanager
def serving(home):
    command = [
        sys.executable, "-m", "xplm", "serve", "--model", str(home / "tiny"), "--port", "0",
        "--served-name", "tiny", "--sessions", str(home / "sessions"),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.kill()


def evaluate(home, *arguments):
    """What `xplm eval` finds: {(task, metric, filter): (value, stderr)}."""
    out = json.loads(run("xplm", "eval", *arguments, "--json", "--quiet", home=home))
    keys = ("task", "metric", "filter")
    return {tuple(r[k] for k in keys): (r["value"], r["stderr"]) for r in out["results"]}


@pytest.mark.parametrize("more", [(), ("--chat", "--system", "Be brief."), ("--limit", 3)])
def test_here_and_through_the_server_numbers_are_the_same_bits(home, server, more):
    names = [
        name for name in [*TASKS, "sampled"] if not (more[:1] == ("--chat",) and name == "whole")
    ]
    tasks = [home / "tasks" / f"{name}.yaml" for name in names]
    here = evaluate(home, *tasks, "--model", home / "tiny", *more)
    there = evaluate(home, *tasks, "--server", server, *more)
    assert {task for task, _, _ in here} == set(names)
    assert here == there
    assert len({value for value, _ in here.values()}) > len(names)


def test_a_directory_with_tasks(home):
    where = ("--model", home / "tiny", "--include-path", home / "tasks")
    by_name = evaluate(home, "choice", *where)
    assert by_name == evaluate(home, home / "tasks" / "choice.yaml", "--model", home / "tiny")


@pytest.mark.parametrize(
    ("client", "path", "tasks", "ours"),
    [
        ("local-completions", "completions", ["choice", "whole", "likelihood"], ()),
        ("local-completions", "completions", ["answer"], ()),
        ("local-chat-completions", "chat/completions", ["answer"], ("--chat",)),
    ],
)
def test_lm_evals_own_clients_find_the_same(home, server, tmp_path, client, path, tasks, ours):
    files = [home / "tasks" / f"{name}.yaml" for name in tasks]
    arguments = (
        f"model=tiny,base_url={server}/v1/{path},num_concurrent=4,max_length=256,"
        "custom_prefix_token_id=0"  # it takes a BOS token of id 0 for none
    )
    chat = ["--apply_chat_template", "--fewshot_as_multiturn", "true"] if ours else []
    run(
        "lm_eval", "run", "--model", client, "--model_args", arguments, "--tasks",
        ",".join(map(str, files)), "--output_path", tmp_path, *chat, home=home,
    )  # fmt: skip
    (written,) = tmp_path.rglob("results_*.json")
    found = {}
    for name, values in json.loads(written.read_text())["results"].items():
        for key, value in values.items():
            metric, comma, _ = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                found[name, metric, ""] = value
    here = evaluate(home, *files, "--model", home / "tiny", *ours)
    assert found == {key: value for key, (value, _) in here.items()}


def test_faults_of_tasks_are_one_line(home, tmp_path):
    bad = {
        "no_data": TASK.format(name="x", data="/nonesuch.jsonl", kind="multiple_choice", more=CHOICE),
        "no_yaml": "task: [",
        "no_kind": "output_type: multiple_choice",
        "no_field": TASK.format(
            name="x", data=home / "documents.jsonl", kind="generate_until",
            more=ANSWER.replace("{{question}}", "{{nonesuch.x}}"),
        ),
    }  # fmt: skip
    for name, text in bad.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for task in [*(tmp_path / f"{name}.yaml" for name in bad), "arc_eazy"]:
        done = launch("xplm", "eval", task, "--model", home / "tiny", "--quiet", home=home)
        assert (done.returncode, done.stdout) == (2, ""), (task, done.stderr)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: a task")
