"""Tasks of lm-eval, EleutherAI's evaluation harness, asked of a model. No other module imports lm-eval.

lm-eval has the documents, the prompts, the filters and the metrics; what it asks a model goes to a subject. Nothing
outside it is seeded or changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import lm_eval
import yaml
from datasets.exceptions import DatasetsError
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from xplm.errors import RequestError, did_you_mean, one_line
from xplm.evaluate.questions import Questions
from xplm.evaluate.report import Row, read_rows
from xplm.evaluate.subject import Asking, Conversation, Likelihood, Subject, Text

FEW_SHOT_SEED = 1234
"""By which examples are drawn, unless the task says otherwise; lm-eval's own default."""

RESAMPLES = 1000
"""For the standard error of a metric that has no formula for it."""

LOADING_FAULTS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    yaml.YAMLError,
    jinja2.TemplateError,
    DatasetsError,
)
"""What lm-eval and datasets raise for a task that is malformed, or whose data is not there."""


class AskedModel(LM):
    """A subject as lm-eval sees it."""

    def __init__(self, questions: Questions, name: str) -> None:
        """Pass requests on.

        Args:
            questions: to the subject.
            name: of the model.
        """
        super().__init__()
        self._questions, self._name = questions, name

    @property
    def tokenizer_name(self) -> str:
        """The model's name."""
        return self._name

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Likelihood]:
        """The likelihood of each continuation after its context."""
        return self._questions.likelihoods([request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """The log-probability of each text."""
        return self._questions.rolling([request.args[0] for request in requests])

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answer to each prompt."""
        return self._questions.answers([request.args for request in requests])

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> Text:
        """Messages as they are: the subject has the template."""
        if not add_generation_prompt:
            raise RequestError(
                "a task whose answers have a given beginning (gen_prefix) cannot be asked as a chat; leave out --chat"
            )
        return Conversation(tuple((turn["role"], turn["content"]) for turn in chat_history))


@dataclass(frozen=True)
class Tasks:
    """Tasks that are loaded, with their documents."""

    loaded: Mapping[str, Any]

    def ask(self, subject: Subject, asking: Asking) -> tuple[list[Row], int]:
        """Ask a model.

        Args:
            subject: the model.
            asking: how.

        Returns:
            The results, and the prompts whose beginning did not fit the context.

        Raises:
            RequestError: a task's template fails on a document, or the model cannot be asked.
        """
        for task in self.loaded["tasks"].values():
            _set_examples(task, asking.num_fewshot)
        questions = Questions(subject, asking.seed)
        try:
            results = lm_eval.evaluate(
                lm=AskedModel(questions, subject.name),
                task_dict=self.loaded,
                limit=asking.limit,
                bootstrap_iters=RESAMPLES,
                log_samples=False,
                system_instruction=asking.system,
                apply_chat_template=asking.is_chat,
                fewshot_as_multiturn=asking.is_chat,
            )
        except jinja2.TemplateError as error:
            raise RequestError(
                f"a task's templates must fit its documents; got: {error}"
            ) from error
        return read_rows(results), questions.n_cut


def load_tasks(names: Sequence[str], include_path: Path | None = None) -> Tasks:
    """Load tasks.

    Args:
        names: of tasks or groups of lm-eval, or of YAML files.
        include_path: a directory with further tasks.

    Raises:
        RequestError: there is no such task, or it cannot be loaded.
    """
    if include_path is not None and not include_path.is_dir():
        raise RequestError(f'--include-path is a directory; "{include_path}" is none')
    files = [name for name in names if Path(name).is_file()]
    manager = TaskManager(include_path=include_path, include_defaults=len(files) < len(names))
    for name in names:
        if name not in (*files, *manager.all_tasks):
            raise RequestError(
                f'a task is one of lm-eval\'s, a name in --include-path, or a YAML file; got "{name}"'
                f"{did_you_mean(name, manager.all_tasks)}"
            )
    try:
        loaded = manager.load(list(names))
        sizes = {name: len(task.eval_docs) for name, task in loaded["tasks"].items()}
    except LOADING_FAULTS as error:
        said = f"{type(error).__name__}: {one_line(str(error))}"
        raise RequestError(f"a task and its documents must load; got {said}") from error
    for name, task in loaded["tasks"].items():
        if sizes[name] == 0:
            raise RequestError(f'a task must have documents; "{name}" has none')
        if getattr(task, "MULTIMODAL", False):
            raise RequestError(f'a task must ask in text; "{name}" shows pictures or sounds')
        if getattr(task, "UNSAFE_CODE", False):
            raise RequestError(f'a task must not run what a model writes; "{name}" does')
    return Tasks(loaded)


def _set_examples(task: Any, count: int | None) -> None:
    """Have so many examples stand in front of each document; a task that asks for none, by name, keeps none."""
    own = task.get_config("num_fewshot")
    if own is None or (count is not None and own != 0):
        task.set_config(key="num_fewshot", value=count or 0)
    task.set_fewshot_seed(seed=FEW_SHOT_SEED)
