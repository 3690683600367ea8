"""Street scenes drawn from a seed, and the cache of them as ordinary image and label files."""

from hiera_seg.data.generated.cache import cache_root, list_scenes
from hiera_seg.data.generated.scene import VOID, draw_scene

__all__ = ["VOID", "cache_root", "draw_scene", "list_scenes"]
