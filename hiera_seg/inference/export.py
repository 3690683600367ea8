"""Writing a segmentor as a file that runs without this package: TorchScript, torch.export, ONNX."""

import contextlib
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hiera_seg.compat import exports_any_size
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.inference.deployed import DeployedSegmentor

# What a file of each format is called, where the user has no other wish.
SUFFIXES = {"torchscript": ".pt", "export": ".pt2", "onnx": ".onnx"}
METADATA = "hiera_seg.json"

# Of maps a file gives and those of the model: what rounding may change.
TOLERANCE = 1e-4

# A network that can not be exported is met at the size of its example, as any other would be.
_EXAMPLE = (2, 3, 97, 130)


class ExportError(RuntimeError):
    """A network that a format can not hold, or a file that computes something else."""


def export_segmentor(
    segmentor: DeployedSegmentor, path: str | os.PathLike, format: str, image_format: str = "BGR"
) -> float:
    """Write a segmentor for images (B, 3, H, W) uint8 of any B, H and W, and check the file.

    Args:
        segmentor: on the CPU, in eval.
        path: of the file; it appears when it is whole and checked.
        format: one of `SUFFIXES`.
        image_format: the order of the channels, for the file's description of itself.

    Returns:
        As :func:`check_exported`.

    Raises:
        ConfigError: an unknown format, a package that it needs is missing, or the file can not be
            written.
        ExportError: the network can not be exported, or the file computes something else.
        ValueError: the segmentor is in training.
    """
    if segmentor.training:
        raise ValueError("the segmentor is in training; call eval() on its model first")
    writers = {"torchscript": _write_torchscript, "export": _write_export, "onnx": _write_onnx}
    if format not in writers:
        raise ConfigError(f"format is {format!r}; choose one of {tuple(writers)}")
    _check_packages(format)
    path = Path(path)
    if format == "export" and path.suffix != SUFFIXES[format]:
        raise ConfigError(f"{path}: torch.export.load reads files that end in .pt2; call it so")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it")
    part = path.with_name(f"{path.name}.part{SUFFIXES[format]}")
    example = torch.randint(256, _EXAMPLE, generator=torch.Generator().manual_seed(0))
    description = json.dumps(describe(segmentor, image_format))
    try:
        part.touch()  # before minutes of work
        with torch.no_grad(), _known_warnings():
            # The tables of a tree are made once and kept: they must not be what a tracer makes
            segmentor(example.to(torch.uint8))
            writers[format](segmentor, example.to(torch.uint8), part, description)
        worst = check_exported(segmentor, part, format)
        os.replace(part, path)
        return worst
    except OSError as error:
        raise ConfigError(f"{path} can not be written: {error.strerror or error}") from error
    except ExportError:
        raise
    except Exception as error:  # what the exporters raise is theirs: anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"the network can not be written as {format}: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def describe(segmentor: DeployedSegmentor, image_format: str) -> dict:
    """What a file says of itself: plain data, enough to name and colour what it gives."""
    tree: Hierarchy = segmentor.model.hierarchy
    return {
        "tree": tree.name,
        "image": f"uint8 (batch, 3, height, width), {image_format}",
        "outputs": segmentor.outputs.names,
        "decode": segmentor.options.variant,
        "levels": list(tree.level_names),
        "leaves": tree.num_leaves,
        "nodes": list(tree.paths),
        "colors": tree_colors(tree).tolist(),
    }


def load_exported(
    path: str | os.PathLike, format: str
) -> tuple[Callable[[Tensor], list[Tensor]], dict]:
    """Read a file that :func:`export_segmentor` wrote.

    Returns:
        ``(run, description)``: ``run`` takes images (B, 3, H, W) uint8.

    Raises:
        ConfigError: a package that the format needs is missing.
    """
    _check_packages(format)
    path = str(path)
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        description = session.get_modelmeta().custom_metadata_map["hiera_seg"]
        return (
            lambda image: [torch.from_numpy(x) for x in session.run(None, {"image": image.numpy()})]
        ), json.loads(description)
    extra = {METADATA: ""}
    with _known_warnings():
        if format == "torchscript":
            module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
        else:
            module = torch.export.load(path, extra_files=extra).module()
    return (lambda image: list(module(image))), json.loads(extra[METADATA])


def check_exported(
    segmentor: DeployedSegmentor,
    path: str | os.PathLike,
    format: str,
    sizes: Sequence[tuple[int, int, int]] = ((1, 128, 160), (1, 75, 101), (2, 66, 93)),
) -> float:
    """Run a file on random images and compare what it gives with the model's own predictions.

    Args:
        segmentor: what was written.
        path, format: the file.
        sizes: (batch, height, width) of the images.

    Returns:
        The largest difference between scores.

    Raises:
        ExportError: scores differ by more than `TOLERANCE`, or labels where no tie explains it.
    """
    run, _ = load_exported(path, format)
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for batch, height, width in sizes:
        image = torch.randint(256, (batch, 3, height, width), generator=generator)
        image = image.to(torch.uint8)
        try:
            found = run(image)
        except Exception as error:  # of whatever runtime
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"the {format} file fails on {batch} x {height} x {width}: {reason}"
            ) from error
        for name, got, want in zip(
            segmentor.outputs.names, found, _predict(segmentor, image), strict=True
        ):
            where = f"the {format} file on {batch} x {height} x {width}: {name}"
            if got.shape != want.shape or got.dtype != want.dtype:
                raise ExportError(
                    f"{where} is {got.dtype} {tuple(got.shape)}, the model gives {want.dtype} "
                    f"{tuple(want.shape)}"
                )
            if name == "sem_seg":
                difference = (got - want).abs().max().item()
                worst = max(worst, difference)
                if not difference <= TOLERANCE:
                    raise ExportError(f"{where} differs by {difference:.2g} from the model's")
            elif not ((got == want) | _undecided(segmentor, image, name)).all():
                share = (got != want).double().mean().item()
                raise ExportError(f"{where} differs from the model's in {share:.2%} of the labels")
    return worst


@torch.no_grad()
def _predict(segmentor: DeployedSegmentor, images: Tensor) -> list[Tensor]:
    """What the model itself gives for images, as users see it."""
    predictions = segmentor.model([{"image": image} for image in images])
    maps = []
    for name in segmentor.outputs.names:
        of_images = [prediction[name] for prediction in predictions]
        if name != "sem_seg":
            of_images = [torch.stack(levels).long() for levels in of_images]
        maps.append(torch.stack(of_images))
    return maps


@torch.no_grad()
def _undecided(segmentor: DeployedSegmentor, images: Tensor, name: str) -> Tensor:
    """Where rounding may decide: bool (B, levels, H, W), the best scores all but tie."""
    scores = segmentor.scores(images)
    tree, threshold = segmentor.model.hierarchy, segmentor.options.min_confidence
    levels = [scores.at_level(level)[0] for level in range(tree.num_levels)]
    gaps = torch.stack([_gap(level) for level in levels])
    if name == "hiera_labels":
        if threshold is None:
            gaps = _gap(scores.leaf_ranking()[0]).expand_as(gaps)
        else:  # a walk passes every level, and any score may be the one at the threshold
            near = torch.stack([(level - threshold).abs().amin(0) for level in levels])
            gaps = torch.minimum(gaps, near).amin(0).expand_as(gaps)
    batch, _, height, width = images.shape
    return (gaps < TOLERANCE).reshape(-1, batch, height, width).transpose(0, 1)


def _gap(scores: Tensor) -> Tensor:
    """How far the best channel is above the second: (C, H, W) -> (H, W)."""
    if len(scores) == 1:
        return torch.full_like(scores[0], torch.inf)
    best = scores.topk(2, dim=0).values
    return best[0] - best[1]


def _write_torchscript(
    segmentor: DeployedSegmentor, example: Tensor, path: Path, description: str
) -> None:
    traced = torch.jit.trace(segmentor, example, check_trace=False)  # check_exported does more
    with path.open("wb") as file:  # given a path, it would not say that a disk is full
        torch.jit.save(traced, file, _extra_files={METADATA: description})


def _write_export(
    segmentor: DeployedSegmentor, example: Tensor, path: Path, description: str
) -> None:
    any_size = torch.export.Dim.AUTO  # as far as the network allows
    shapes = {0: any_size, 2: any_size, 3: any_size}
    program = torch.export.export(segmentor, (example,), dynamic_shapes=(shapes,))
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: description})


def _write_onnx(
    segmentor: DeployedSegmentor, example: Tensor, path: Path, description: str
) -> None:
    program = torch.onnx.export(
        segmentor,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        input_names=["image"],
        output_names=segmentor.outputs.names,
        verbose=False,
    )
    program.model.metadata_props["hiera_seg"] = description
    program.save(str(path))


def _check_packages(format: str) -> None:
    if format != "torchscript" and not exports_any_size():
        raise ConfigError(f"format {format} needs torch 2.6 or newer, not {torch.__version__}")
    wanted = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format onnx needs {', '.join(missing)}: pip install {' '.join(missing)} (the extra "
            '"export" of hiera_seg)'
        )


@contextlib.contextmanager
def _known_warnings() -> Iterator[None]:
    """Leave out the warnings that say nothing about the file; whatever else comes is shown.

    Tracing warns where Python reads a size or walks a tensor. In these modules that is the number
    of channels against the tree's nodes, whether an input is empty, and the levels of the tree:
    none of it differs from image to image. TorchScript itself is announced to go, some day.
    torch.export.save warns of tables that are parts of one larger table, as the levels of a tree
    are; it is of tensors on a GPU, and here all are on the CPU.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        for module in (r"hiera_seg\.", r"detectron2\."):
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=module)
        warnings.filterwarnings("ignore", "`torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit", category=DeprecationWarning)
        yield
