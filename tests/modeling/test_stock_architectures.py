"""Heads of this package in Detectron2's own SemanticSegmentor and PanopticFPN."""

from collections import Counter, defaultdict

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from hiera_seg import ConfigError, Hierarchy
from hiera_seg.checkpoint.trees import tree_of
from hiera_seg.data import HieraDatasetMapper, register_hierarchical_dataset
from hiera_seg.evaluation import HieraSemSegEvaluator
from hiera_seg.layers.scores import NodeOutput, node_scores
from hiera_seg.modeling import HieraSegmentor
from tests.helpers import new_config

STOCK = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
QUERY = "MODEL.HIERA_SEG.MASK_FORMER."
SMALL_QUERIES = (
    *("MODEL.SEM_SEG_HEAD.NAME", "HieraMaskFormerHead"),
    *("MODEL.SEM_SEG_HEAD.NORM", ""),
    *("MODEL.HIERA_SEG.LOSSES", []),
    *(f"{QUERY}PIXEL_DECODER", "top_down_fpn"),
    *(f"{QUERY}NUM_QUERIES", 11),
    *(f"{QUERY}HIDDEN_DIM", 32),
    *(f"{QUERY}DIM_FEEDFORWARD", 32),
    *(f"{QUERY}DECODER_LAYERS", 2),
)
HEADS = {
    "pixels": ("MODEL.HIERA_SEG.LOSSES", [["focal_tree_min", 1.0]]),
    "softmax": (
        *("MODEL.HIERA_SEG.LOSSES", [["marginal_ce", 1.0]]),
        *("MODEL.HIERA_SEG.TEST.DECODE", "marginal_path_sum"),
    ),
    "queries": SMALL_QUERIES,
}


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
def test_eval_in_a_stock_segmentor_gives_the_scores_of_hiera_segmentor(
    make_model, make_inputs, hierarchy, options
):
    stock, ours = make_model(*STOCK, *options).eval(), make_model(*options).eval()
    for parameter in ours.sem_seg_head.parameters():  # of a predictor near 0 all scores are equal
        torch.nn.init.normal_(parameter, std=0.2)
    stock.load_state_dict(ours.state_dict())
    inputs = make_inputs((64, 96), (50, 90))[:1]
    found, expected = stock(inputs)[0]["sem_seg"], ours(inputs)[0]["sem_seg"]
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert tree_of(stock) == hierarchy  # a checkpoint has the tree


def test_scores_are_cropped_and_resized_as_those_of_stock_heads(make_model, hierarchy):
    model = make_model(*STOCK).eval()
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    images = [torch.randint(256, (3, *size)).to(torch.uint8) for size in ((40, 64), (64, 48))]
    outputs = model([{"image": images[0], "height": 80, "width": 100}, {"image": images[1]}])
    assert [tuple(x["sem_seg"].shape) for x in outputs] == [(6, 80, 100), (6, 64, 48)]
    padded = torch.zeros(2, 3, 64, 64)  # the batch, as the network gets it
    for i, image in enumerate(images):
        height, width = image.shape[1:]
        padded[i, :, :height, :width] = (image - model.pixel_mean) / model.pixel_std
    logits = model.sem_seg_head.layers(model.backbone(padded)).logits
    logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    leaves = node_scores(NodeOutput(logits, "logits"), hierarchy, "path_sum").leaves()
    expected = F.interpolate(leaves[:1, :, :40, :64], (80, 100), mode="bilinear")[0]
    torch.testing.assert_close(outputs[0]["sem_seg"], expected)


def test_half_precision_features_are_scored_in_float32(make_model, make_inputs):
    model = make_model(*STOCK).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(make_inputs((32, 32)))[0]["sem_seg"].dtype == torch.float32


def test_a_variant_that_does_not_fit_stops_the_build(make_model):
    with pytest.raises(ConfigError, match="MODEL.HIERA_SEG.TEST.DECODE is 'level_softmax'"):
        make_model(*STOCK, *SMALL_QUERIES, "MODEL.HIERA_SEG.TEST.DECODE", "level_softmax")


def test_a_stock_training_script_may_set_keys_of_0_1(make_cfg):
    test = "MODEL.HIERA_SEG.TEST."
    cfg = make_cfg(f"{test}SAFE_DEPTH", 0.6, f"{test}CALIBRATION", True)
    for architecture in ("HieraSegmentor", "SemanticSegmentor"):
        cfg.MODEL.META_ARCHITECTURE = architecture
        with pytest.warns(FutureWarning, match="SAFE_DEPTH .*MIN_CONFIDENCE"):
            model = build_model(cfg)
        if isinstance(model, HieraSegmentor):
            assert model.decode_options.min_confidence == 0.6 and model.decode_options.confidence


def test_the_names_of_0_1_for_the_normalizer_warn(make_model, make_inputs):
    model = make_model("MODEL.HIERA_SEG.LOSSES", [["bce", 1.0]]).train()
    inputs = make_inputs((64, 96))
    with pytest.warns(FutureWarning, match="label_counts .*label_normalizer"):
        normalizer = model.label_counts(inputs)
    expected = model.losses(inputs, 2 * normalizer)["loss_bce"]
    with pytest.warns(FutureWarning, match="counts=.*normalizer="):
        found = model(inputs, counts=2 * normalizer)["loss_bce"]
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0)  # dropout differs
    assert torch.equal(normalizer, model.sem_seg_head.label_normalizer(inputs[0]["sem_seg"][None]))


SCENES = Hierarchy.from_dict(
    {"things": None, "stuff": {"ground": ["road", "grass"], "sky": None}},
    name="toy_scenes",
    levels=["group", "kind", "class"],
    leaf_order=["things", "road", "grass", "sky"],
)
THINGS = ["car", "ball"]
SIZE = (64, 96)


def draw_scene(seed: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Draw an image (BGR) of three bands with a car and a ball, its leaf ids, and its boxes."""
    rng = np.random.default_rng(seed)
    labels = np.full(SIZE, SCENES["sky"], np.uint8)
    horizon = int(rng.integers(16, 24))
    labels[horizon:, :48] = SCENES["road"]
    labels[horizon:, 48:] = SCENES["grass"]
    colors = {"road": (90, 90, 90), "grass": (30, 160, 40), "sky": (230, 170, 90)}
    image = np.zeros((*SIZE, 3), np.uint8)
    for name, color in colors.items():
        image[labels == SCENES[name]] = color
    annotations = []
    for category, left, color in ((0, 6, (20, 20, 230)), (1, 56, (240, 240, 240))):
        x, y = left + int(rng.integers(0, 10)), int(rng.integers(30, 38))
        image[y : y + 24, x : x + 24] = color
        labels[y : y + 24, x : x + 24] = SCENES["things"]
        corners = [x, y, x + 24, y, x + 24, y + 24, x, y + 24]
        box = {"bbox": [x, y, x + 24, y + 24], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
        annotations.append({**box, "category_id": category, "segmentation": [corners]})
    return image, labels, annotations


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> str:
    """A dataset with label files of leaf ids + 10 and with boxes and masks of things."""
    folder, name = tmp_path_factory.mktemp("toy_scenes"), "hiera_test_toy_scenes"
    records = []
    for i in range(6):
        image, labels, annotations = draw_scene(i)
        files = {"file_name": folder / f"{i}.png", "sem_seg_file_name": folder / f"{i}_label.png"}
        cv2.imwrite(str(files["file_name"]), image)
        cv2.imwrite(str(files["sem_seg_file_name"]), labels + 10)
        size = {"height": SIZE[0], "width": SIZE[1]}
        records.append(
            {key: str(path) for key, path in files.items()}
            | {"image_id": i, "annotations": annotations, **size}
        )
    register_hierarchical_dataset(
        name,
        records,
        hierarchy=SCENES,
        label_map={leaf + 10: leaf for leaf in range(4)},
        thing_classes=THINGS,
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def panoptic_cfg(scenes):
    return new_config(
        *("MODEL.META_ARCHITECTURE", "PanopticFPN"),
        *("MODEL.DEVICE", "cpu"),
        *("MODEL.WEIGHTS", ""),
        *("MODEL.MASK_ON", True),
        *("MODEL.PIXEL_STD", [57.4, 57.1, 58.4]),
        *("MODEL.BACKBONE.NAME", "build_hiera_test_regnet_fpn_backbone"),
        *("MODEL.FPN.OUT_CHANNELS", 32),
        *("MODEL.SEM_SEG_HEAD.NAME", "HieraPixelHead"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
        *("MODEL.HIERA_SEG.PIXEL_DECODER", "fpn"),
        *("MODEL.HIERA_SEG.LOSSES", [["focal_tree_min", 1.0]]),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[24]]),
        *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]]),
        *("MODEL.RPN.IN_FEATURES", ["p2"]),
        *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100),
        *("MODEL.RPN.POST_NMS_TOPK_TEST", 20),
        *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64),
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        *("MODEL.ROI_HEADS.IN_FEATURES", ["p2"]),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 2),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
        *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
        *("MODEL.ROI_BOX_HEAD.NUM_FC", 1),
        *("MODEL.ROI_BOX_HEAD.FC_DIM", 64),
        *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 5),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
        *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
        *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7),
        *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 40),
        *("INPUT.MIN_SIZE_TRAIN", (SIZE[0],)),
        *("INPUT.MIN_SIZE_TEST", SIZE[0]),
        *("INPUT.CROP.ENABLED", False),
        *("DATASETS.TRAIN", (scenes,)),
        *("DATASETS.TEST", (scenes,)),
    )


class PanopticQuality(DatasetEvaluator):
    """PQ of stuff and of things (Kirillov et al., CVPR 2019, eq. 1); classes are (is thing, id)."""

    def reset(self):
        self.ious = defaultdict(list)  # of the found segments of a class, 0 if not above 1/2
        self.num_true = Counter()

    def process(self, inputs, outputs):
        for x, output in zip(inputs, outputs, strict=True):
            _, labels, annotations = draw_scene(x["image_id"])
            truth = {(False, i): labels == i for i in range(1, 4)}
            for annotation in annotations:
                left, top, right, bottom = annotation["bbox"]
                mask = truth[True, annotation["category_id"]] = np.zeros(SIZE, bool)
                mask[top:bottom, left:right] = True
            self.num_true.update(truth)
            segments, infos = output["panoptic_seg"]
            for info in infos:
                key, mask = (info["isthing"], info["category_id"]), segments.numpy() == info["id"]
                iou = (mask & truth[key]).sum() / (mask | truth[key]).sum()
                self.ious[key].append(iou if iou > 0.5 else 0)

    def evaluate(self):
        # The sum over matches, over their number and half of those of all other segments
        pq = {key: 200 * sum(self.ious[key]) / (len(self.ious[key]) + number)
              for key, number in self.num_true.items()}  # fmt: skip
        kinds = {"PQ_st": False, "PQ_th": True}
        means = {k: np.mean([pq[key] for key in pq if key[0] == v]) for k, v in kinds.items()}
        return {"panoptic_seg": {kind: float(mean) for kind, mean in means.items()}}


def test_panoptic_fpn_with_a_hierarchical_branch_is_trained_and_evaluated(panoptic_cfg, scenes):
    torch.manual_seed(0)
    model = build_model(panoptic_cfg).train()
    records = DatasetCatalog.get(scenes)
    mapper = HieraDatasetMapper(panoptic_cfg, True, output="panoptic")
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    with EventStorage():
        for i in range(60):
            losses = model([mapper(records[(2 * i + k) % 6]) for k in range(2)])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    assert {"loss_focal_tree_min", "loss_rpn_cls", "loss_mask"} <= losses.keys()
    mapper = HieraDatasetMapper(panoptic_cfg, False)
    loader = torch.utils.data.DataLoader([[mapper(record)] for record in records], batch_size=None)
    evaluators = DatasetEvaluators(
        [
            PanopticQuality(),
            HieraSemSegEvaluator(scenes, distributed=False),
        ]
    )
    results = inference_on_dataset(model, loader, evaluators)
    levels = results["sem_seg"]
    assert min(levels[f"mIoU_{name}"] for name in SCENES.level_names) > 80
    quality = results["panoptic_seg"]
    assert quality["PQ_st"] > 80 and quality["PQ_th"] > 50


def test_panoptic_fpn_takes_leaf_0_for_all_things(panoptic_cfg):
    panoptic_cfg.MODEL.HIERA_SEG.HIERARCHY = "cityscapes"
    with pytest.raises(ConfigError, match="'cityscapes' is 'road'.*'things'.*leaf_order"):
        build_model(panoptic_cfg)
