"""Predict label maps per level for images and videos; test-time augmentation, sliding windows."""

import hiera_seg.compat  # must be imported before detectron2
from hiera_seg.inference.augmentation import HieraSegmentorWithTTA
from hiera_seg.inference.coco import CocoResultWriter
from hiera_seg.inference.media import VideoFrames, find_media
from hiera_seg.inference.predictor import HieraPredictor
from hiera_seg.inference.published import load_published, publish
from hiera_seg.inference.sliding import slide
from hiera_seg.inference.weights import build_for_eval, load_for_eval
