"""Predict on images, videos and cameras, and write overlays, label maps and regions."""

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from hiera_seg.config.image_format import chosen_bands
from hiera_seg.errors import ConfigError, DatasetError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference import CocoResultWriter, HieraPredictor, VideoFrames, build_for_eval
from hiera_seg.visualization import VideoWriter, draw_kinds, save_label_map, save_levels
from hiera_seg.visualization.geotiff import read_geo_tags
from hiera_seg.visualization.save import KINDS as _KINDS_OF_IMAGE
from hiera_seg.visualization.save import LABELS, file_names

KINDS = (*_KINDS_OF_IMAGE, "rle")
_KINDS_OF_VIDEO = ("overlay",)  # by default no folder with one label map per frame


def load_predictor(cfg: CfgNode, opts: Collection[str] = ()) -> tuple[HieraPredictor, str]:
    """Build a predictor; arguments as of :func:`~hiera_seg.inference.build_for_eval`.

    Returns:
        The predictor, and the path of its weights.
    """
    model, weights = build_for_eval(cfg, opts)
    return HieraPredictor(cfg, model), weights


def refuse_overwriting(
    stems: Iterable[str], inputs: Iterable[str], folder: str | os.PathLike, hierarchy: Hierarchy
) -> None:
    """Check that no output file would overwrite an input or the output of another input.

    `stems` are the beginnings of the output file names; level names of the tree are part of them.

    Raises:
        ConfigError: a file would be overwritten; the message names it.
    """
    written: dict[str, str] = {}
    for stem in stems:
        suffixes = (".png", ".tif", ".mp4")
        for name in (x + suffix for x in file_names(stem, hierarchy) for suffix in suffixes):
            other = written.setdefault(os.path.realpath(os.path.join(folder, name)), stem)
            if other != stem:
                raise ConfigError(
                    f"{name}: an output file of both {other!r} and {stem!r} (by the level names of "
                    f"tree {hierarchy.name!r}); write them to different folders"
                )
    for path in inputs:
        if os.path.realpath(path) in written:
            raise ConfigError(
                f"{path}: would be overwritten by an output file; write to another folder"
            )


class PredictionWriter(AbstractContextManager):
    """Predict, and write overlays, label maps, strips and run-length encoded regions.

    A context manager, which completes the files that all images share at its end.
    """

    def __init__(
        self,
        predictor: HieraPredictor,
        folder: str | os.PathLike,
        *,
        level: str | None = None,
        kinds: Collection[str] | None = None,
        alpha: float = 0.55,
        safe_depth: float | None = None,
    ):
        """
        Args:
            predictor: a predictor that returns label maps.
            folder: an existing folder.
            level: name of the only level to write; the strip always shows all. None: all levels.
            kinds: some of `KINDS`; by default all but "rle" for images, "overlay" for videos.
            alpha: opacity of the colours, 0..1.
            safe_depth: see :class:`HieraPredictor`.

        Raises:
            OSError: a file cannot be written.
        """
        self._predictor = predictor
        self._hierarchy = predictor.hierarchy
        self._folder = Path(folder)
        self._levels = self._hierarchy.level_names if level is None else (level,)
        self._image_kinds = _KINDS_OF_IMAGE if kinds is None else tuple(kinds)
        self._video_kinds = _KINDS_OF_VIDEO if kinds is None else tuple(kinds)
        self._alpha = alpha
        self._safe_depth = safe_depth
        self._rle = None
        if "rle" in self._image_kinds:
            self._rle = CocoResultWriter(folder, self._hierarchy, self._levels)

    def add_image(
        self, stem: str, file_name: str, image: np.ndarray, truth: np.ndarray | None = None
    ) -> str:
        """Predict on an image, and write the results.

        Args:
            stem: the beginning of the output file names.
            file_name: path of the image; the georeferencing of a GeoTIFF is kept.
            image: (H, W, 3) uint8, BGR. If the model requires bands, they are read from the file,
                and this is what to draw on.
            truth: (H, W) integer node ids to show in the strip.

        Returns:
            The largest classes of the finest level with their shares, as text.

        Raises:
            DatasetError: the file of an image of bands cannot be read.
            OSError: a file cannot be written.
        """
        geo_tags = read_geo_tags(file_name)
        with_bands = chosen_bands(self._predictor.image_format) is not None
        labels, names = self._predict(file_name, file_name if with_bands else image)
        save_levels(
            self._folder, stem, _rgb(image), labels, self._hierarchy, truth=truth,
            levels=self._levels, alpha=self._alpha, kinds=self._image_kinds, geo_tags=geo_tags,
        )  # fmt: skip
        finest = labels[-1]
        shares = {v: np.count_nonzero(finest == v) / finest.size for v in list(names)[:5]}
        return ", ".join(f"{names[v]} {share:.0%}" for v, share in shares.items())

    def add_video(
        self,
        stem: str,
        frames: VideoFrames,
        progress: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
    ) -> int:
        """Predict on the frames of a video or camera, and write videos of the drawn results.

        Label maps are written as ``<stem>-ids-<level>/<frame>.png``.

        Args:
            stem: the beginning of the output file names.
            frames: the frames; Ctrl-C ends a camera.
            progress: wraps the frames, for example in a progress bar.

        Returns:
            The number of frames written.

        Raises:
            DatasetError: the video is damaged; the frames before the damage have been written. Or
                the model requires bands.
            OSError: a file cannot be written.
        """
        if chosen_bands(self._predictor.image_format) is not None:
            raise DatasetError(
                f"{frames.name}: frames of videos are colours, but the model's INPUT.FORMAT is "
                f"{self._predictor.image_format!r}; pass image files"
            )
        done = 0
        with ExitStack() as stack:
            writers: dict[str, VideoWriter] = {}
            if frames.is_camera:
                stack.enter_context(suppress(KeyboardInterrupt))  # Ctrl-C ends it
            for frame in progress(frames):
                labels, _ = self._predict(frames.name, frame, frame_index=done)
                drawn = draw_kinds(
                    _rgb(frame), labels, self._hierarchy, levels=self._levels, alpha=self._alpha,
                    kinds=self._video_kinds,
                )  # fmt: skip
                for end, image in drawn.items():
                    if done == 0:
                        path = self._folder / f"{stem}{end}"
                        writer = VideoWriter(path, frames.fps, image.shape[:2])
                        writers[end] = stack.enter_context(writer)
                    writers[end].write(image)
                if "labels" in self._video_kinds:
                    self._save_label_maps(stem, done, labels)
                done += 1
        return done

    def __exit__(self, *_: object) -> None:
        if self._rle is not None:
            self._rle.close()

    def _predict(
        self, file_name: str, image: np.ndarray, **extra: int
    ) -> tuple[list[np.ndarray], dict[int, str]]:
        """Return the label maps of an image, and the names of its nodes, the largest area first."""
        scores = self._rle is not None
        result = self._predictor(image, safe_depth=self._safe_depth, scores=scores)
        if self._rle is not None:
            self._rle.add(file_name, result, **extra)
        return [level.cpu().numpy() for level in result["hiera_labels"]], result["names"]

    def _save_label_maps(self, stem: str, frame: int, labels: list[np.ndarray]) -> None:
        for name, values in zip(self._hierarchy.level_names, labels, strict=True):
            if name in self._levels:
                folder = self._folder / f"{stem}{LABELS}{name}"
                folder.mkdir(exist_ok=True)
                save_label_map(folder / f"{frame:06d}.png", values, self._hierarchy)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])
