"""Evaluate predictions with Detectron2's ``inference_on_dataset`` and print tables of scores."""

import hiera_seg.compat  # must be imported before detectron2
from hiera_seg.evaluation.comparison import compare_runs, comparison_tables, read_run
from hiera_seg.evaluation.confusion_files import read_confusion
from hiera_seg.evaluation.evaluator import (
    HieraSemSegEvaluator,
    build_hiera_evaluator,
    evaluation_folder,
)
from hiera_seg.evaluation.image_counts import ImageCounts
from hiera_seg.evaluation.predictions import evaluate_predictions
from hiera_seg.evaluation.tables import class_table, report, summary_table
