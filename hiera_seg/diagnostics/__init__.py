"""Test a config before training: dry run, fast dev run, cost analysis."""

import hiera_seg.compat  # must be imported before detectron2
from hiera_seg.diagnostics.dry_run import dry_run
from hiera_seg.diagnostics.fast_dev_run import fast_dev_run
