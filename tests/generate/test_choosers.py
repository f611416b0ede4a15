"""Choices of several replies on several threads are those of one."""

import threading

import numpy as np
import pytest

from xplm.errors import RequestError
from xplm.generate import choosers
from xplm.generate.choosers import Choosers
from xplm.generate.sampling import Choice


class Chosen:
    """A reply that notes on which thread it chose, and refuses logits that are not finite."""

    def __init__(self):
        self.thread = ""

    def choose(self, logits):
        self.thread = threading.current_thread().name
        if np.isnan(logits).any():
            raise RequestError("logits must be finite")
        return Choice(int(np.argmax(logits)), 0.0, [])


@pytest.mark.parametrize("n_replies", [2, 3, 7])
def test_each_reply_gets_its_own_row_whichever_thread_chooses(monkeypatch, n_replies):
    monkeypatch.setattr(choosers, "WORTH_A_THREAD", 0)
    logits = np.eye(n_replies, 9, dtype=np.float32)[::-1].copy()
    logits[1] = np.nan
    replies = [Chosen() for _ in range(n_replies)]
    outcomes = Choosers(3).choose(replies, logits)
    assert isinstance(outcomes.pop(1), RequestError)
    assert [o.token for o in outcomes] == [
        n for n in reversed(range(n_replies)) if n != n_replies - 2
    ]
    assert all(reply.thread.startswith("xplm-chooser") for reply in replies)


def test_few_logits_and_one_thread_stay_where_they_are():
    for threads, V in ((3, 9), (1, choosers.WORTH_A_THREAD)):
        replies = [Chosen(), Chosen()]
        Choosers(threads).choose(replies, np.zeros((2, V), np.float32))
        assert {reply.thread for reply in replies} == {threading.current_thread().name}
