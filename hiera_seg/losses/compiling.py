"""Exclude the losses from torch.compile."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def runs_eagerly(function: Function) -> Function:
    """Run a function eagerly inside of compiled code.

    The losses compute value and gradient in one pass over tiles that fit the cache, and read tables
    of the tree that are made with numpy. Tracing them gives a large graph that is no faster when
    compiled. The code before and after the loss stays compiled.
    """
    if not hasattr(torch, "compiler"):  # torch 2.0
        return function
    eager = torch.compiler.disable(function)

    @wraps(function)
    def call(*args, **kwargs):  # torch.compile(eager) itself would compile `function`
        return eager(*args, **kwargs)

    return call
