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

    A key that the config has already, for example of another project, keeps its value.

    Args:
        cfg: the config to extend in place.
    """
    given = cfg.clone()
    set_defaults(cfg)
    cfg.merge_from_other_cfg(given)


def set_defaults(cfg: CN) -> None:
    """Set every key of the package to its default; see :func:`add_defaults`."""
    add_deeplab_config(cfg)  # ASPP keys, poly schedule, SINGLE_CATEGORY_MAX_AREA of crops

    # Store features with channels last: faster on CPUs, and on GPUs in half precision.
    cfg.MODEL.CHANNELS_LAST = False

    cfg.MODEL.HIERA_SEG = CN()
    hiera = cfg.MODEL.HIERA_SEG
    # Class tree: a built-in name or a file. "" uses the tree of the first training dataset.
    hiera.HIERARCHY = ""
    # Losses of hiera_seg.losses.HIERA_LOSSES by name, with their weights.
    hiera.LOSSES = [["focal_tree_min", 1.0], ["tree_triplet", 1.0]]
    # Also load checkpoints of another tree, whose class layers are matched by the nodes' names.
    hiera.MAP_CLASSES = False
    # Pixel decoder: "deeplab_v3_plus", "fpn", "ocr", or "sep_aspp", which HSSN's public release
    # uses.
    hiera.PIXEL_DECODER = "deeplab_v3_plus"

    # Options of the losses (docs/losses.md).

    # Denominator of the sum over nodes: "sum", "node_mean" or "level_mean".
    hiera.TREE_MIN = CN({"NORMALIZE": "sum"})
    hiera.FOCAL_TREE_MIN = CN()
    hiera.FOCAL_TREE_MIN.GAMMA = 2.0  # focusing exponent; 0 equals tree_min
    hiera.FOCAL_TREE_MIN.NORMALIZE = "sum"  # as TREE_MIN.NORMALIZE
    hiera.BCE = CN({"NORMALIZE": "sum"})  # as TREE_MIN.NORMALIZE
    # One weight per level, coarse to fine; [] weights all levels with 1.
    hiera.LEVEL_CE = CN({"LEVEL_WEIGHTS": []})
    # As LEVEL_CE.LEVEL_WEIGHTS; [0, ..., 0, 1] is cross entropy over the leaves.
    hiera.MARGINAL_CE = CN({"LEVEL_WEIGHTS": []})
    hiera.RMI = CN({"RIDGE": 1e-3})  # added to the diagonal of covariance matrices
    hiera.TREE_TRIPLET = CN()
    # Constant part of the margin.
    hiera.TREE_TRIPLET.MARGIN_EPS = 0.1
    # Constant margin. Negative: compute the margin from the distances in the tree.
    hiera.TREE_TRIPLET.MARGIN = -1.0
    # Maximum number of anchors per class in a batch.
    hiera.TREE_TRIPLET.SAMPLES_PER_CLASS = 64
    # Iterations in which its weight increases from 0 to 1/2; 0 means SOLVER.MAX_ITER.
    hiera.TREE_TRIPLET.SCHEDULE_ITERS = 0

    # Embedding head for tree_triplet; built only if a loss needs it.
    hiera.EMBEDDING = CN()
    hiera.EMBEDDING.IN_FEATURE = "res5"  # backbone feature
    hiera.EMBEDDING.HIDDEN_CHANNELS = 0  # 0 means the channels of IN_FEATURE
    hiera.EMBEDDING.DIM = 256  # channels of the embedding
    # Norm of the hidden layer, as in Detectron2's get_norm. With "", "FrozenBN" or "LN" the head is
    # computed only at the sampled pixels.
    hiera.EMBEDDING.NORM = "BN"

    # Auxiliary head that predicts leaves, used in training only.
    hiera.AUXILIARY = CN()
    hiera.AUXILIARY.WEIGHT = 0.0  # weight of its cross entropy; 0 disables the head
    hiera.AUXILIARY.IN_FEATURE = "res4"  # backbone feature
    hiera.AUXILIARY.CHANNELS = 256  # channels of the hidden layer
    hiera.AUXILIARY.DROPOUT = 0.1  # dropout rate before the last layer
    hiera.AUXILIARY.NORM = "BN"  # norm of the hidden layer

    # Weights of the nodes in the losses, computed from the pixel counts in FILE (written by
    # tools/count_nodes.py): "inverse", "inverse_sqrt" or "median" frequency, at most MAX. ""
    # weights all nodes with 1.
    hiera.NODE_WEIGHTS = CN({"METHOD": "", "FILE": "", "MAX": 10.0})

    # HieraMaskFormerHead, whose queries score nodes; needs MODEL.HIERA_SEG.LOSSES [].
    hiera.MASK_FORMER = CN()
    # "leaf_softmax" (softmax over leaves, parents are sums) or "node_sigmoid" (sigmoid per node).
    hiera.MASK_FORMER.OPTION = "leaf_softmax"
    hiera.MASK_FORMER.NUM_QUERIES = 100  # number of queries, each of which predicts a mask
    hiera.MASK_FORMER.HIDDEN_DIM = 256  # channels of queries and mask features
    hiera.MASK_FORMER.NUM_HEADS = 8  # heads per attention layer
    hiera.MASK_FORMER.DIM_FEEDFORWARD = 2048  # hidden channels of the decoder's layers
    hiera.MASK_FORMER.DECODER_LAYERS = 9  # number of decoder layers
    # "ms_deform_attn", "top_down_fpn", or a name of HIERA_SEG.PIXEL_DECODER, with which queries
    # attend to the features of the backbone.
    hiera.MASK_FORMER.PIXEL_DECODER = "ms_deform_attn"
    hiera.MASK_FORMER.ENCODER_LAYERS = 6  # layers of ms_deform_attn
    hiera.MASK_FORMER.ENCODER_DIM_FEEDFORWARD = 1024  # hidden channels of these layers
    # Weight of the classification loss, and of its cost in the matching of queries and segments.
    hiera.MASK_FORMER.CLASS_WEIGHT = 2.0
    hiera.MASK_FORMER.MASK_WEIGHT = 5.0  # binary cross entropy of masks, in loss and matching
    hiera.MASK_FORMER.DICE_WEIGHT = 5.0  # dice loss of masks, in loss and matching
    # Weight of unmatched queries in the classification loss.
    hiera.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    # Number of points at which masks are compared (importance sampling as in PointRend).
    hiera.MASK_FORMER.NUM_POINTS = 12544
    hiera.MASK_FORMER.OVERSAMPLE_RATIO = 3.0  # sampled candidates per point
    # Share of points that are the most uncertain candidates; the others are uniformly random.
    hiera.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75
    hiera.MASK_FORMER.DEEP_SUPERVISION = True  # losses after every decoder layer, not only the last
    # Stride at which masks become scores in evaluation: 1 is exact, the decoder's stride fastest.
    hiera.MASK_FORMER.SCORE_STRIDE = 1
    # Object-contextual representations (PIXEL_DECODER "ocr").
    hiera.OCR = CN()
    # One soft region per "node", trained by LOSSES, or per "leaf", trained by cross entropy.
    hiera.OCR.REGIONS = "node"
    hiera.OCR.WEIGHT = 0.4  # weight of the regions' loss; 0 disables it
    hiera.OCR.KEY_CHANNELS = 256  # channels of the attention from pixels to regions
    hiera.OCR.DROPOUT = 0.05  # dropout rate after the attention

    # timm backbone (MODEL.BACKBONE.NAME: build_hiera_timm_backbone).
    hiera.TIMM = CN()
    hiera.TIMM.NAME = ""  # name of a timm model, such as "hrnet_w48" (docs/backbones.md)
    # Download timm's pretrained weights; ignored if MODEL.WEIGHTS is set.
    hiera.TIMM.PRETRAINED = True
    # File with weights to load instead: a local path, or package://<package>/<file>.
    hiera.TIMM.CHECKPOINT = ""
    # 8 or 16 dilate the last stages of models that support it.
    hiera.TIMM.OUTPUT_STRIDE = 32
    # Output features. With OUT_NORM or several processes, list only features that heads use.
    hiera.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    hiera.TIMM.DROP_PATH_RATE = 0.0  # rate of stochastic depth
    hiera.TIMM.NORM = "BN"  # "SyncBN" synchronizes batch norm over all GPUs
    # "LN" applies layer norm to each output feature, for Swin and ConvNeXt.
    hiera.TIMM.OUT_NORM = ""

    _add_nodes_of_other_losses(hiera)

    hiera.TEST = CN()
    # Decoding of node scores to leaf scores: "auto" (follows the losses) or a name of
    # docs/decoding.md.
    hiera.TEST.DECODE = "auto"
    # Also predict the node with the highest score at each level, independent of the leaves.
    hiera.TEST.DIRECT = True
    # "both", "scores" (only sem_seg) or "labels" (only label maps, with the least memory).
    hiera.TEST.OUTPUT = "both"
    # Safe depth: predict an inner node if its best child scores below this. Negative: always
    # predict a leaf.
    hiera.TEST.MIN_CONFIDENCE = -1.0
    # Logit adjustment for rare leaves: divide each node's probability among its siblings by (its
    # pixel share in FILE) ** TAU; 0 disables it. FILE is written by tools/count_nodes.py
    # (docs/decoding.md).
    hiera.TEST.SIBLING_ADJUSTMENT = CN({"TAU": 0.0, "FILE": ""})
    # Return the greedy path and evaluate accuracy against specificity over all safe depths
    # (docs/metrics.md).
    hiera.TEST.GREEDY_PATH = False
    # Return the score of the predicted node per level and evaluate its calibration
    # (docs/metrics.md).
    hiera.TEST.CONFIDENCE = False
    # Evaluate the Boundary IoU of each level (docs/metrics.md, with its cost).
    hiera.TEST.BOUNDARY_IOU = False

    # [height, width] of sliding windows over each resized image, in addition to Detectron2's
    # ENABLED, MIN_SIZES ([]: INPUT.MIN_SIZE_TEST only), MAX_SIZE and FLIP; [] uses whole images.
    cfg.TEST.AUG.CROP_SIZE = []
    # [vertical, horizontal] step between windows; [] means two thirds of CROP_SIZE.
    cfg.TEST.AUG.STRIDE = []

    # Write report.html after every evaluation (docs/report.md).
    cfg.TEST.REPORT = False
    cfg.TEST.REPORT_IMAGES = 6  # number of images in the report
    # Number of test images sent to the LOGGERS at each evaluation, with all levels.
    cfg.TEST.STRIP_IMAGES = 2

    # Save the weights with the best METRIC, such as "sem_seg/mIoU" or "validation_loss", to
    # model_best.pth. MODE is "max" if higher values are better, or "min". METRIC "" disables it.
    cfg.TEST.BEST_CHECKPOINT = CN({"METRIC": "", "MODE": "max"})
    # Stop training after PATIENCE evaluations without a better METRIC; METRIC "" disables it.
    cfg.TEST.EARLY_STOPPING = CN({"METRIC": "", "MODE": "max", "PATIENCE": 5})
    # Compute the training losses on DATASETS.TEST at each evaluation of a training.
    cfg.TEST.VALIDATION_LOSS = False

    # Loggers of metrics and images in addition to the log and metrics.json: "tensorboard", "wandb",
    # "mlflow" (docs/training.md).
    cfg.LOGGERS = ["tensorboard"]

    # If a training sample cannot be read, "raise" ends the run and "skip" uses another sample.
    cfg.DATALOADER.ON_ERROR = "raise"

    # The format "BANDS" reads all bands of a file, "BANDS:0,3,2" some of them, MODEL.PIXEL_MEAN and
    # PIXEL_STD have one number per band. These channels are shown as red, green and blue; [] shows
    # the first three.
    cfg.INPUT.DISPLAY_BANDS = []
    # [lowest, highest] values that become 0 and 255 in images of more than 8 bits per channel. []
    # drops the lower 8 of 16 bits and refuses floats and 32 bits (datasets/README.md).
    cfg.INPUT.IMAGE_RANGE = []
    # "apply" rotates images and labels by their EXIF orientation, "ignore" keeps both as stored.
    cfg.INPUT.EXIF = "apply"
    # Threads of each process. 0: OMP_NUM_THREADS if set, else the CPUs that the processes of the
    # machine may use, divided by their number.
    cfg.NUM_THREADS = 0
    # Seconds that the processes of a job wait for each other before it is aborted.
    cfg.DIST_TIMEOUT = 1800

    # Photometric distortion of training images (brightness, contrast, saturation, hue).
    cfg.INPUT.COLOR_AUG_SSD = False

    # Precision of AMP: "bfloat16", "float16" (with scaled gradients, GPUs only), or "auto": float16
    # on a GPU, as in Detectron2; on a CPU bfloat16 if it has bfloat16 arithmetic, else float32.
    cfg.SOLVER.AMP.PRECISION = "auto"
    # Optimizer: "SGD" or "ADAMW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone as a multiple of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Number of parts into which the IMS_PER_BATCH images of a step are split to save memory.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Exponential moving average of the weights, which is evaluated in place of the weights.
    cfg.SOLVER.EMA = CN({"ENABLED": False, "DECAY": 0.999})

    # Old keys: None unless a config file or command line of version 0.1 sets them.
    for key in OLD_KEYS:
        node, _, name = key.rpartition(".")
        functools.reduce(getattr, node.split("."), cfg)[name] = None


def _add_nodes_of_other_losses(hiera: CN) -> None:
    """Add a node with the default options of each loss that a user registered.

    New keys are allowed in these nodes, for options without a plain default. Building a loss with
    an unknown option is an error.
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
                continue  # these have keys of their own
            if isinstance(option.default, bool | int | float | str | list | tuple):
                node[option.name.upper()] = copy.deepcopy(option.default)
