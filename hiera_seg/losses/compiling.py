"""How losses stand to torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def runs_eagerly(function: Function) -> Function:
    """Let torch.compile step over a function instead of tracing it.

    The losses compute value and gradient in one pass over tiles that fit the cache, and look up
    tables of the tree made with numpy. A trace of that is large, and the code made from it is no
    faster; stepping over it leaves what lies before and after the loss compiled.
    """
    if not hasattr(torch, "compiler"):  # torch 2.0
        return function
    stepped_over = torch.compiler.disable(function)

    @wraps(function)
    def call(*args, **kwargs):  # torch.compile(stepped_over) itself would compile `function`
        return stepped_over(*args, **kwargs)

    return call
