"""Predicting on images, videos and cameras, and writing what was asked for."""

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from hiera_seg.errors import ConfigError
from hiera_seg.hierarchy import Hierarchy
from hiera_seg.inference import CocoResultWriter, HieraPredictor, VideoFrames, build_for_eval
from hiera_seg.visualization import VideoWriter, draw_kinds, save_label_map, save_levels
from hiera_seg.visualization.save import KINDS as _KINDS_OF_IMAGE
from hiera_seg.visualization.save import LABELS, file_names

KINDS = (*_KINDS_OF_IMAGE, "rle")
_KINDS_OF_VIDEO = ("overlay",)  # by default no folder with one label map per frame


def load_predictor(cfg: CfgNode, opts: Collection[str] = ()) -> tuple[HieraPredictor, str]:
    """Build a predictor by :func:`~hiera_seg.inference.build_for_eval`, whose arguments it takes.

    Returns:
        The predictor, and the path of its weights.
    """
    model, weights = build_for_eval(cfg, opts)
    return HieraPredictor(cfg, model), weights


def refuse_overwriting(
    stems: Iterable[str], inputs: Iterable[str], folder: str | os.PathLike, hierarchy: Hierarchy
) -> None:
    """Check that no picture of a prediction would be written over an input or another's picture.

    Args:
        stems: how the names of the written files begin.
        inputs: paths of images and videos.
        folder: that is written to.
        hierarchy: the tree, for its levels.

    Raises:
        ConfigError: one would; the message names it.
    """
    written: dict[str, str] = {}
    for stem in stems:
        for name in [
            x + suffix for x in file_names(stem, hierarchy) for suffix in (".png", ".mp4")
        ]:
            other = written.setdefault(os.path.realpath(os.path.join(folder, name)), stem)
            if other != stem:
                raise ConfigError(
                    f"{name} would be a picture of {other!r} and one of {stem!r}: levels of tree "
                    f"{hierarchy.name!r} have such names; write each to a folder of its own"
                )
    for path in inputs:
        if os.path.realpath(path) in written:
            raise ConfigError(f"{path} would be overwritten by a result; write to another folder")


class PredictionWriter(AbstractContextManager):
    """Predicts, and writes overlays, label maps, strips and run-length encoded regions.

    A context manager: files that all images share are finished at its end.
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
            predictor: one that gives label maps.
            folder: an existing folder.
            level: write of this level only; the strip shows all.
            kinds: of `KINDS`; default: all but "rle" of an image, "overlay" of a video.
            alpha: opacity of the colours, 0..1.
            safe_depth: as of the predictor.

        Raises:
            OSError: a file can not be written.
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
        """Predict on an image, and write it.

        Args:
            stem: how the names of its files begin.
            file_name: of the image.
            image: (H, W, 3) uint8, BGR.
            truth: (H, W) integer node ids to show in the strip.

        Returns:
            The largest classes of the finest level with their shares, for people.

        Raises:
            OSError: a file can not be written.
        """
        labels = self._predict(file_name, image)
        save_levels(
            self._folder, stem, _rgb(image), labels, self._hierarchy, truth=truth,
            levels=self._levels, alpha=self._alpha, kinds=self._image_kinds,
        )  # fmt: skip
        return self._describe(labels[-1])

    def add_video(
        self,
        stem: str,
        frames: VideoFrames,
        progress: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
    ) -> int:
        """Predict on the frames of a video or camera, and write videos of what is drawn.

        Label maps are written as ``<stem>-ids-<level>/<frame>.png``.

        Args:
            stem: how the names of its files begin.
            frames: the frames; Ctrl-C ends those of a camera.
            progress: wraps the frames, such as a progress bar does.

        Returns:
            How many frames were written.

        Raises:
            DatasetError: the video is damaged; what could be read of it has been written.
            OSError: a file can not be written.
        """
        done = 0
        with ExitStack() as stack:
            writers: dict[str, VideoWriter] = {}
            if frames.is_camera:
                stack.push(_ends_by_ctrl_c)
            for frame in progress(frames):
                labels = self._predict(frames.name, frame, frame_index=done)
                drawn = draw_kinds(
                    _rgb(frame), labels, self._hierarchy, levels=self._levels, alpha=self._alpha,
                    kinds=self._video_kinds,
                )  # fmt: skip
                for end, picture in drawn.items():
                    if done == 0:
                        path = self._folder / f"{stem}{end}"
                        writer = VideoWriter(path, frames.fps, picture.shape[:2])
                        writers[end] = stack.enter_context(writer)
                    writers[end].write(picture)
                if "labels" in self._video_kinds:
                    self._save_label_maps(stem, done, labels)
                done += 1
        return done

    def close(self) -> None:
        """Finish the files that all images share.

        Raises:
            OSError: they can not be written.
        """
        if self._rle is not None:
            self._rle.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict(self, file_name: str, image: np.ndarray, **extra: int) -> list[np.ndarray]:
        wants_scores = self._rle is not None
        result = self._predictor(image, safe_depth=self._safe_depth, scores=wants_scores)
        if self._rle is not None:
            self._rle.add(file_name, result, **extra)
        return [level.cpu().numpy() for level in result["hiera_labels"]]

    def _save_label_maps(self, stem: str, frame: int, labels: list[np.ndarray]) -> None:
        for name, values in zip(self._hierarchy.level_names, labels, strict=True):
            if name in self._levels:
                folder = self._folder / f"{stem}{LABELS}{name}"
                folder.mkdir(exist_ok=True)
                save_label_map(folder / f"{frame:06d}.png", values, self._hierarchy)

    def _describe(self, labels: np.ndarray) -> str:
        counts = np.bincount(labels.ravel(), minlength=self._hierarchy.num_nodes)
        largest = [v for v in np.argsort(-counts, kind="stable")[:5] if counts[v]]
        names = self._hierarchy.display_names
        return ", ".join(f"{names[v]} {counts[v] / labels.size:.0%}" for v in largest)


def _ends_by_ctrl_c(kind: type[BaseException] | None, *_: object) -> bool:
    return kind is KeyboardInterrupt


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])
