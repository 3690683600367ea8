"""The class tree: reading, checking, numbering, lookup tables, colours, drawing as text."""

from .colors import tree_colors
from .errors import HierarchyError
from .files import builtin_names
from .tree import Hierarchy, as_hierarchy

__all__ = ["Hierarchy", "HierarchyError", "as_hierarchy", "builtin_names", "tree_colors"]
