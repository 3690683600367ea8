"""The class tree: reading, checking, numbering, lookup tables, colours, drawing as text."""

from .colors import tree_colors
from .convert import as_hierarchy
from .errors import HierarchyError
from .files import builtin_names
from .tree import Hierarchy

__all__ = ["Hierarchy", "HierarchyError", "as_hierarchy", "builtin_names", "tree_colors"]
