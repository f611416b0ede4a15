"""Evaluation: tasks of lm-eval asked of a model, in this process or behind a server."""
