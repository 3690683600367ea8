"""Read, check, number, query, colour and print class trees."""

from hiera_seg.errors import HierarchyError
from hiera_seg.hierarchy.colors import tree_colors
from hiera_seg.hierarchy.convert import as_hierarchy
from hiera_seg.hierarchy.files import builtin_names
from hiera_seg.hierarchy.tree import Hierarchy
