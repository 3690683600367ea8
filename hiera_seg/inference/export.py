"""Export a segmentor to a file that runs without this package: TorchScript, torch.export, ONNX."""

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
from hiera_seg.config.image_format import chosen_bands
from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy, tree_colors
from hiera_seg.inference.deployed import DeployedSegmentor

# Default file suffix of each format
SUFFIXES = {"torchscript": ".pt", "export": ".pt2", "onnx": ".onnx"}
METADATA = "hiera_seg.json"

# Largest difference between the scores of a file and of the model, and largest share of pixels
# with other labels, which rounding may cause
TOLERANCE = 1e-4
_LABEL_TOLERANCE = 1e-3

# (B, H, W); with an odd size, a network that cannot be exported fails while it is written
_EXAMPLE = (2, 97, 130)


class ExportError(RuntimeError):
    """Raised for a network that cannot be exported, or a file with other results than its model."""


def export_segmentor(
    segmentor: DeployedSegmentor, path: str | os.PathLike, format: str, image_format: str = "BGR"
) -> float:
    """Export a segmentor for images (B, 3, H, W) uint8 of any B, H and W, and check the file.

    Args:
        segmentor: on the CPU, in eval mode.
        path: the file; it is created after it has been written and checked completely.
        format: a key of `SUFFIXES`.
        image_format: the order of the channels, for the description in the file.

    Returns:
        See :func:`check_exported`.

    Raises:
        ConfigError: the format is unknown, requires a package that is missing, or the file cannot
            be written; or the values of images are floats.
        ExportError: the network cannot be exported, or the file has other results.
        ValueError: the segmentor is in training mode.
    """
    if segmentor.training:
        raise ValueError("segmentor: in training mode; call eval() on its model first")
    if format not in SUFFIXES:
        raise ConfigError(f"format: unknown value {format!r}; choose one of {tuple(SUFFIXES)}")
    if image_format.startswith("YUV") or chosen_bands(image_format) is not None:
        raise ConfigError(
            f"INPUT.FORMAT is {image_format!r}, whose values are floats, but exported files take "
            "images of 8 bits per channel; export a model of RGB or BGR images"
        )
    _check_packages(format)
    path = Path(path)
    if format == "export" and path.suffix != SUFFIXES[format]:
        raise ConfigError(f"{path}: torch.export.load requires the suffix .pt2; rename the file")
    if path.is_dir():
        raise ConfigError(f"{path}: a folder; name a file in it")
    part = path.with_name(f"{path.name}.part{SUFFIXES[format]}")
    example = _random_images(*_EXAMPLE, seed=0)
    description = json.dumps(describe(segmentor, image_format))
    try:
        part.touch()  # before minutes of work
        with torch.no_grad(), _known_warnings():
            # Fill the cached tables of the tree first; they must not hold tensors of a tracer
            segmentor(example)
            _write(segmentor, example, part, format, description)
        worst = check_exported(segmentor, part, format)
        os.replace(part, path)
        return worst
    except ExportError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror or error}; choose another path"
        ) from error
    except Exception as error:  # exporters raise almost any error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"{path}: cannot export the network as {format}: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def describe(segmentor: DeployedSegmentor, image_format: str) -> dict:
    """Return the description stored in a file: plain data to name and colour its outputs."""
    tree: Hierarchy = segmentor.model.hierarchy
    return {
        "tree": tree.name,
        "image": f"uint8 (batch, 3, height, width), {image_format}",
        "outputs": segmentor.outputs,
        "decode": segmentor.options.variant,
        "levels": list(tree.level_names),
        "leaves": tree.num_leaves,
        "nodes": list(tree.paths),
        "colors": tree_colors(tree).tolist(),
    }


def load_exported(
    path: str | os.PathLike, format: str
) -> tuple[Callable[[Tensor], list[Tensor]], dict]:
    """Load a file that :func:`export_segmentor` wrote.

    Returns:
        ``(run, description)``: ``run`` takes images (B, 3, H, W) uint8.

    Raises:
        ConfigError: a package that the format requires is missing.
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
    """Run a file on random images and compare its outputs with the model's predictions.

    Args:
        segmentor: the segmentor that was exported.
        path: the file.
        format: its format.
        sizes: (batch, height, width) of the images.

    Returns:
        The largest difference between scores.

    Raises:
        ExportError: scores differ by more than `TOLERANCE`, or more than one label in 1000 differs.
    """
    run, _ = load_exported(path, format)
    worst = 0.0
    for batch, height, width in sizes:
        image = _random_images(batch, height, width, seed=1)
        try:
            found = run(image)
        except Exception as error:  # runtimes raise almost any error
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"the {format} file fails on {batch} x {height} x {width}: {reason}"
            ) from error
        for name, got, want in zip(
            segmentor.outputs, found, _predict(segmentor, image), strict=True
        ):
            where = f"the {format} file on {batch} x {height} x {width}: {name}"
            if got.dtype != want.dtype:
                raise ExportError(f"{where} is {got.dtype}, the model's {want.dtype}")
            if name == "sem_seg":
                difference = (got - want).abs().max().item()
                worst = max(worst, difference)
                if not difference <= TOLERANCE:
                    raise ExportError(f"{where} differs by {difference:.2g} from the model's")
            elif (share := (got != want).double().mean().item()) > _LABEL_TOLERANCE:
                raise ExportError(f"{where} differs from the model's in {share:.2%} of the labels")
    return worst


def _random_images(batch: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def _predict(segmentor: DeployedSegmentor, images: Tensor) -> list[Tensor]:
    """Return the model's own predictions for images, in the layout of an exported file."""
    predictions = segmentor.model([{"image": image} for image in images])
    maps = []
    for name in segmentor.outputs:
        of_images = [prediction[name] for prediction in predictions]
        if name != "sem_seg":
            of_images = [torch.stack(levels).long() for levels in of_images]
        maps.append(torch.stack(of_images))
    return maps


def _write(
    segmentor: DeployedSegmentor, example: Tensor, path: Path, format: str, description: str
) -> None:
    if format == "onnx":
        program = torch.onnx.export(
            segmentor,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            input_names=["image"],
            output_names=segmentor.outputs,
            verbose=False,
        )
        program.model.metadata_props["hiera_seg"] = description
        program.save(str(path))
        return
    with path.open("wb") as file:  # saving to a path does not report a full disk
        if format == "torchscript":
            traced = torch.jit.trace(segmentor, example, check_trace=False)  # see check_exported
            torch.jit.save(traced, file, _extra_files={METADATA: description})
            return
        any_size = torch.export.Dim.AUTO  # any size that the network allows
        shapes = {0: any_size, 2: any_size, 3: any_size}
        program = torch.export.export(segmentor, (example,), dynamic_shapes=(shapes,))
        torch.export.save(program, file, extra_files={METADATA: description})


def _check_packages(format: str) -> None:
    if format != "torchscript" and not exports_any_size():
        raise ConfigError(
            f"format {format}: requires torch 2.6 or newer, found {torch.__version__}"
        )
    wanted = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format onnx: {', '.join(missing)} not installed; run pip install "
            f'{" ".join(missing)} (the extra "export" of hiera_seg)'
        )


@contextlib.contextmanager
def _known_warnings() -> Iterator[None]:
    """Suppress warnings that do not concern the file.

    Tracing warns if Python reads a size or iterates over a tensor. In these modules that is the
    number of channels, whether an input is empty, and the levels of the tree, which are the same
    for every image. TorchScript is deprecated. torch.export.save warns of tables that share
    memory, as those of the levels of a tree do; that only matters for tensors on a GPU.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        for module in (r"hiera_seg\.", r"detectron2\."):
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=module)
        warnings.filterwarnings("ignore", "`torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit", category=DeprecationWarning)
        yield
