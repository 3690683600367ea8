"""Read and write checkpoints: no pickled code is executed, and class trees are compared."""

from hiera_seg.checkpoint.checkpointer import HieraCheckpointer
from hiera_seg.checkpoint.packages import local_path
from hiera_seg.checkpoint.read import read_checkpoint, read_file
from hiera_seg.checkpoint.trees import TREE_KEY, class_layers, tree_entries
from hiera_seg.checkpoint.unpickle import allow_unsafe_pickle, unsafe_pickle_allowed
from hiera_seg.errors import CheckpointError
