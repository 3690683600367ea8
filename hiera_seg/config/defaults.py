"""Define every config key of the package with its default and one comment."""

import hiera_seg.compat  # noqa: F401  (must be imported before detectron2)

# isort: split
import copy
import functools
import inspect

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config

from hiera_seg.losses import HIERA_LOSSES

# Keys of version 0.1 and their new names. `config.map_old_keys` moves their values, with a warning.
OLD_KEYS: dict[str, str] = {
    "MODEL.HIERA_SEG.TEST.SAFE_DEPTH": "MODEL.HIERA_SEG.TEST.MIN_CONFIDENCE",
    "MODEL.HIERA_SEG.TEST.SAFE_DEPTH_CURVE": "MODEL.HIERA_SEG.TEST.GREEDY_PATH",
    "MODEL.HIERA_SEG.TEST.CALIBRATION": "MODEL.HIERA_SEG.TEST.CONFIDENCE",
}


def add_defaults(cfg: CN) -> None:
    """Add every key of the package, with its default, to a config.

    Args:
        cfg: the config to extend in place.
    """
    add_deeplab_config(cfg)  # ASPP keys, poly schedule, SINGLE_CATEGORY_MAX_AREA of crops

    # Lay features out with channels innermost: quicker on CPUs, and on GPUs in half precision.
    cfg.MODEL.CHANNELS_LAST = False

    cfg.MODEL.HIERA_SEG = CN()
    hiera = cfg.MODEL.HIERA_SEG
    # Class tree: a built-in name or a file; "" takes the tree of the first training set.
    hiera.HIERARCHY = ""
    # Terms of the loss with their weights; names of hiera_seg.losses.HIERA_LOSSES.
    hiera.LOSSES = [["focal_tree_min", 1.0], ["tree_triplet", 1.0]]
    # Load weights of another tree too: the rows of its class layers move by their nodes' names.
    hiera.MAP_CLASSES = False
    # What turns backbone features into one map: "deeplab_v3_plus", "fpn", "ocr", or "sep_aspp",
    # the decoder of HSSN's public release.
    hiera.PIXEL_DECODER = "deeplab_v3_plus"

    # Options of the losses (docs/losses.md).

    # Denominator of the sum over nodes: "sum", "node_mean" or "level_mean".
    hiera.TREE_MIN = CN({"NORMALIZE": "sum"})
    hiera.FOCAL_TREE_MIN = CN()
    hiera.FOCAL_TREE_MIN.GAMMA = 2.0  # how much more hard nodes weigh; 0 is tree_min
    hiera.FOCAL_TREE_MIN.NORMALIZE = "sum"  # as TREE_MIN.NORMALIZE
    hiera.BCE = CN({"NORMALIZE": "sum"})  # as TREE_MIN.NORMALIZE
    # One weight a level, coarse to fine; [] weighs all levels 1.
    hiera.LEVEL_CE = CN({"LEVEL_WEIGHTS": []})
    # As LEVEL_CE.LEVEL_WEIGHTS; [0, ..., 0, 1] is flat cross entropy over the leaves.
    hiera.MARGINAL_CE = CN({"LEVEL_WEIGHTS": []})
    hiera.RMI = CN({"RIDGE": 1e-3})  # added to the diagonals of covariance matrices
    hiera.TREE_TRIPLET = CN()
    # The part of the margin that all triplets share.
    hiera.TREE_TRIPLET.MARGIN_EPS = 0.1
    # A constant margin; below 0 the margin follows the distances in the tree.
    hiera.TREE_TRIPLET.MARGIN = -1.0
    # At most so many anchors of each class that a batch holds.
    hiera.TREE_TRIPLET.SAMPLES_PER_CLASS = 64
    # Iterations over which its weight grows from 0 to 1/2; 0 takes SOLVER.MAX_ITER.
    hiera.TREE_TRIPLET.SCHEDULE_ITERS = 0

    # The embedding that tree_triplet trains; built only when a loss asks for it.
    hiera.EMBEDDING = CN()
    hiera.EMBEDDING.IN_FEATURE = "res5"  # of the backbone
    hiera.EMBEDDING.HIDDEN_CHANNELS = 0  # 0: as many as the input feature has
    hiera.EMBEDDING.DIM = 256  # length of an embedding
    hiera.EMBEDDING.NORM = "BN"  # of the hidden layer; a name of Detectron2's get_norm

    # A flat head on an earlier feature, used in training only; WEIGHT 0 leaves it out.
    hiera.AUXILIARY = CN()
    hiera.AUXILIARY.WEIGHT = 0.0  # of its cross entropy over the leaves
    hiera.AUXILIARY.IN_FEATURE = "res4"  # of the backbone
    hiera.AUXILIARY.CHANNELS = 256  # of its hidden layer
    hiera.AUXILIARY.DROPOUT = 0.1  # before its last layer
    hiera.AUXILIARY.NORM = "BN"  # of its hidden layer

    # Weights of the nodes in the losses, from pixel counts that tools/count_nodes.py wrote to FILE:
    # "inverse", "inverse_sqrt" or "median" frequency, but none above MAX; "": all weigh 1.
    hiera.NODE_WEIGHTS = CN({"METHOD": "", "FILE": "", "MAX": 10.0})

    # Queries that score nodes (HieraMaskFormerHead); set MODEL.HIERA_SEG.LOSSES to [].
    hiera.MASK_FORMER = CN()
    # "leaf_softmax" (softmax over leaves, parents summed) or "node_sigmoid" (a sigmoid a node).
    hiera.MASK_FORMER.OPTION = "leaf_softmax"
    hiera.MASK_FORMER.NUM_QUERIES = 100  # masks that an image can be made of
    hiera.MASK_FORMER.HIDDEN_DIM = 256  # channels of queries and mask features
    hiera.MASK_FORMER.NUM_HEADS = 8  # of every attention
    hiera.MASK_FORMER.DIM_FEEDFORWARD = 2048  # hidden channels in a layer of the decoder
    hiera.MASK_FORMER.DECODER_LAYERS = 9  # queries look at the image so many times
    # "ms_deform_attn", "top_down_fpn", or a name of HIERA_SEG.PIXEL_DECODER (queries read the
    # backbone's own features then).
    hiera.MASK_FORMER.PIXEL_DECODER = "ms_deform_attn"
    hiera.MASK_FORMER.ENCODER_LAYERS = 6  # of ms_deform_attn
    hiera.MASK_FORMER.ENCODER_DIM_FEEDFORWARD = 1024  # hidden channels in a layer of it
    # Of the class loss, and of its cost when queries are matched with segments.
    hiera.MASK_FORMER.CLASS_WEIGHT = 2.0
    hiera.MASK_FORMER.MASK_WEIGHT = 5.0  # of the masks' binary cross entropy, in both
    hiera.MASK_FORMER.DICE_WEIGHT = 5.0  # of the masks' dice loss, in both
    # Queries without a segment weigh so much in the class loss.
    hiera.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    # Masks are compared at so many points, most of them where a mask is undecided.
    hiera.MASK_FORMER.NUM_POINTS = 12544
    hiera.MASK_FORMER.OVERSAMPLE_RATIO = 3.0  # candidates for each point
    # The share of points where a mask is least decided; the others are drawn anywhere.
    hiera.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75
    hiera.MASK_FORMER.DEEP_SUPERVISION = True  # train every layer's masks, not the last's alone
    # Stride at which masks become scores in eval; 1 is exact, the decoder's own is quick.
    hiera.MASK_FORMER.SCORE_STRIDE = 1
    # Object-contextual representations (PIXEL_DECODER "ocr").
    hiera.OCR = CN()
    # A soft region for every "node", trained by LOSSES, or every "leaf", by cross entropy.
    hiera.OCR.REGIONS = "node"
    hiera.OCR.WEIGHT = 0.4  # of the regions' loss; 0 leaves them to the final one
    hiera.OCR.KEY_CHANNELS = 256  # of the attention from pixels to regions
    hiera.OCR.DROPOUT = 0.05  # after it

    # A model of timm as backbone (MODEL.BACKBONE.NAME: build_hiera_timm_backbone).
    hiera.TIMM = CN()
    hiera.TIMM.NAME = ""  # such as "hrnet_w48"; docs/backbones.md
    # Begin with timm's own weights, downloaded; not where MODEL.WEIGHTS is set.
    hiera.TIMM.PRETRAINED = True
    # A local file of weights to begin with instead.
    hiera.TIMM.CHECKPOINT = ""
    # 8 or 16 dilate the last stages of models that can be dilated.
    hiera.TIMM.OUTPUT_STRIDE = 32
    # Name only those that heads read where OUT_NORM is set or several processes train.
    hiera.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    hiera.TIMM.DROP_PATH_RATE = 0.0  # stochastic depth
    hiera.TIMM.NORM = "BN"  # "SyncBN": batch norms over all GPUs
    # "LN": layer norm of each feature, for Swin and ConvNeXt.
    hiera.TIMM.OUT_NORM = ""

    _add_nodes_of_other_losses(hiera)

    hiera.TEST = CN()
    # How node scores become leaf scores: "auto" fits the losses, or a name of docs/decoding.md.
    hiera.TEST.DECODE = "auto"
    # Also give the best node of each level by its own score.
    hiera.TEST.DIRECT = True
    # "both", "scores" (sem_seg alone) or "labels" (label maps alone, least memory).
    hiera.TEST.OUTPUT = "both"
    # Safe depth: predict an inner node if its best child scores below this. Negative: always
    # predict a leaf.
    hiera.TEST.MIN_CONFIDENCE = -1.0
    # Against rare leaves' lot: divide the probability of a node among its siblings by its share of
    # the pixels of FILE (of tools/count_nodes.py) to the power TAU; 0: not (docs/decoding.md).
    hiera.TEST.SIBLING_ADJUSTMENT = CN({"TAU": 0.0, "FILE": ""})
    # Return the greedy path and evaluate accuracy against specificity over all safe depths
    # (docs/metrics.md).
    hiera.TEST.GREEDY_PATH = False
    # Return the score of the predicted node per level and evaluate its calibration
    # (docs/metrics.md).
    hiera.TEST.CONFIDENCE = False

    # Beside Detectron2's ENABLED, MIN_SIZES ([]: INPUT.MIN_SIZE_TEST alone), MAX_SIZE and FLIP:
    # sliding windows of (height, width) over each resized image; [] sees it as a whole.
    cfg.TEST.AUG.CROP_SIZE = []
    # Steps between windows down and across; [] takes two thirds of CROP_SIZE.
    cfg.TEST.AUG.STRIDE = []

    # Write report.html after every evaluation (docs/report.md).
    cfg.TEST.REPORT = False
    cfg.TEST.REPORT_IMAGES = 6  # in the report
    # So many images of the test set go to tensorboard at each evaluation, every level drawn.
    cfg.TEST.STRIP_IMAGES = 2

    # Keep the best weights of all evaluations in model_best.pth: by a metric such as
    # "sem_seg/mIoU" or "validation_loss" ("": not), of which "max" or "min" is best.
    cfg.TEST.BEST_CHECKPOINT = CN({"METRIC": "", "MODE": "max"})
    # End the training after PATIENCE evaluations in a row without a better value of METRIC.
    cfg.TEST.EARLY_STOPPING = CN({"METRIC": "", "MODE": "max", "PATIENCE": 5})
    # At each evaluation also compute the training losses on DATASETS.TEST.
    cfg.TEST.VALIDATION_LOSS = False

    # A training sample that can not be read: "raise" ends the run, "skip" takes another one.
    cfg.DATALOADER.ON_ERROR = "raise"

    # [lowest, highest]: the values that become 0 and 255 in images of more than 8 bits per channel.
    # []: 16 bits lose their lower 8; floats and 32 bits are refused (datasets/README.md).
    cfg.INPUT.IMAGE_RANGE = []
    # "apply" turns images and labels by their EXIF orientation, "ignore" leaves both as stored.
    cfg.INPUT.EXIF = "apply"
    # Seconds that processes of a job wait for each other in one operation before the job ends.
    cfg.DIST_TIMEOUT = 1800

    # Photometric distortion of training images (brightness, contrast, saturation, hue).
    cfg.INPUT.COLOR_AUG_SSD = False

    # With AMP.ENABLED: "bfloat16", "float16" (with scaled gradients; GPUs only), or "auto", which
    # is float16 on a GPU, as Detectron2 has it, and bfloat16 on a CPU.
    cfg.SOLVER.AMP.PRECISION = "auto"
    # "SGD" or "ADAMW"
    cfg.SOLVER.OPTIMIZER = "SGD"
    # The learning rate of the backbone as a multiple of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Go through the IMS_PER_BATCH images of a step in so many parts, to save memory.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Exponential moving average of the weights, which is then what is evaluated.
    cfg.SOLVER.EMA = CN({"ENABLED": False, "DECAY": 0.999})

    # Old keys: None unless a config file or command line of version 0.1 sets them.
    for key in OLD_KEYS:
        node, _, name = key.rpartition(".")
        functools.reduce(getattr, node.split("."), cfg)[name] = None


def _add_nodes_of_other_losses(hiera: CN) -> None:
    """Give losses that are not of this package a node each, with the defaults of their options.

    New keys are allowed in it, for options without a plain default; those that the loss does not
    know are refused where it is built.
    """
    for name, loss in HIERA_LOSSES:
        if name.upper() in hiera:
            continue
        node = hiera[name.upper()] = CN(new_allowed=True)
        for option in inspect.signature(loss).parameters.values():
            if option.kind != option.KEYWORD_ONLY or option.name in (
                "ignore_label",
                "node_weights",
            ):
                continue  # they have keys of their own
            if isinstance(option.default, bool | int | float | str | list | tuple):
                node[option.name.upper()] = copy.deepcopy(option.default)
