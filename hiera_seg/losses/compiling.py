"""How losses stand to torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def runs_eagerly(function: Function) -> Function:
    """Let torch.compile step over a function instead of tracing it.

    The losses compute value and gradient in one pass over tiles that fit the cache, and look up
    tables of the tree made with numpy. A trace of that is large, and the code made from it is no
    faster; stepping over it leaves what lies before and after the loss compiled.
    """
    compiler = getattr(torch, "compiler", None)  # not in torch 2.0
    return function if compiler is None else compiler.disable(function)
