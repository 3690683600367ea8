"""The pages of the documentation, and the hooks that build the site, which MkDocs loads by path."""

import importlib.util
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.helpers import REPOSITORY


@pytest.fixture(scope="session")
def hook() -> Callable[[str], ModuleType]:
    """Load a module of docs/hooks by name."""

    def load(name: str) -> ModuleType:
        file = REPOSITORY / "docs" / "hooks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
