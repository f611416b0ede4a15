"""Training data: from files to the batch of any step."""

from xplm.train.data.bins import open_tokens
from xplm.train.data.dataset import Batch, DataReport, Dataset
from xplm.train.data.digest import data_digest
from xplm.train.data.examples import Example, Examples, make_examples
from xplm.train.data.opening import open_dataset
from xplm.train.data.sources import read_texts
from xplm.train.data.windows import Windows

__all__ = [
    "Batch",
    "DataReport",
    "Dataset",
    "Example",
    "Examples",
    "Windows",
    "data_digest",
    "make_examples",
    "open_dataset",
    "open_tokens",
    "read_texts",
]
