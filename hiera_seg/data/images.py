"""Read image files of any depth as set by INPUT.FORMAT, INPUT.IMAGE_RANGE and INPUT.EXIF."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError
from PIL import TiffImagePlugin as tiff

from hiera_seg.config.image_format import chosen_bands
from hiera_seg.data.bands import as_rgb, is_band_file, read_all_bands, select_bands
from hiera_seg.data.image_files import (
    exif_orientation,
    is_misread,
    is_planar,
    load_pixels,
    open_image,
    raw_mode,
    tiff_pages,
    turn,
)
from hiera_seg.data.opencv import quiet_opencv
from hiera_seg.errors import ConfigError, DatasetError

EXIF_CHOICES = ("apply", "ignore")
_KEY = "INPUT.IMAGE_RANGE"
_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0")


@dataclass(frozen=True)
class ImageReader:
    """Read image files in the same way in training, evaluation and prediction.

    Args:
        image_format: channel order of the result, as in Detectron2's ``read_image``, or "BANDS" or
            "BANDS:0,3,2" for all or some bands of the file.
        value_range: (lowest, highest), the values that become 0 and 255 in images of more than 8
            bits per channel; values between them are scaled linearly. If empty, images of 16 bits
            lose their lower 8, and images of 32 bits or of floats are refused. Bands stay as they
            are stored.
        exif: "apply" turns images by their EXIF orientation, "ignore" leaves them as stored.
        num_channels: number of bands to require; None for any number.

    Raises:
        ConfigError: an argument is invalid.
    """

    image_format: str = "RGB"
    value_range: Sequence[float] = ()
    exif: str = "apply"
    num_channels: int | None = None

    def __post_init__(self) -> None:
        values = tuple(self.value_range or ())
        numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in values)
        if values and not (numbers and len(values) == 2 and values[0] < values[1]):
            raise ConfigError(
                f"{_KEY} is {list(values)}; specify two numbers, the lowest value first, such as "
                "[0, 4095], or [] for none"
            )
        check_exif(self.exif)
        chosen_bands(self.image_format)
        object.__setattr__(self, "value_range", values)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ImageReader":
        """Build the reader of a config."""
        options = cfg.INPUT
        return cls(options.FORMAT, options.IMAGE_RANGE, options.EXIF, len(cfg.MODEL.PIXEL_MEAN))

    def __call__(self, path: str) -> np.ndarray:
        """Read a file; see :func:`read_image_file`."""
        if chosen_bands(self.image_format) is not None:
            return self._read_bands(path)
        stored = read_stored(path, self.exif, exact_colors=bool(self.value_range))
        pixels = convert_PIL_to_numpy(stored.as_8_bit(self.value_range), self.image_format)
        return turn(pixels, stored.turn_by)

    def _read_bands(self, path: str) -> np.ndarray:
        if is_band_file(path):
            values, orientation = read_all_bands(path, self.num_channels)
            turn_by = orientation if self.exif == "apply" else 1
        else:
            stored = read_stored(path, self.exif, exact_colors=True)
            values, turn_by = stored.array(), stored.turn_by
        selected = select_bands(
            path, values, self.image_format, self.num_channels, self.value_range
        )
        return turn(selected, turn_by)


def read_image_file(
    path: str,
    image_format: str = "RGB",
    *,
    value_range: Sequence[float] = (),
    exif: str = "apply",
) -> np.ndarray:
    """Read an image.

    Args:
        path: a file that Pillow reads, a TIFF that OpenCV (colours as floats) or tifffile (bands)
            reads, or a .npy file of numbers (H, W), (H, W, C) or (C, H, W).
        image_format, value_range, exif: see :class:`ImageReader`.

    Returns:
        (H, W, C) in the channel order of ``image_format``, uint8 (float for YUV and bands).

    Raises:
        DatasetError: the file is missing, unreadable or cut short, or holds floats or 32-bit
            integers and `value_range` is empty; or it has other bands than the format needs.
        ConfigError: `value_range` or `exif` is invalid.
    """
    return ImageReader(image_format, value_range, exif)(path)


def rgb_reader(cfg: CfgNode) -> Callable[[str], np.ndarray]:
    """Return a function that reads an image file for display, as uint8 (H, W, 3) RGB."""
    read, image_format = ImageReader.from_config(cfg), cfg.INPUT.FORMAT
    if chosen_bands(image_format) is None:
        return dataclasses.replace(read, image_format="RGB")
    return lambda path: as_rgb(read(path), image_format, cfg.INPUT.DISPLAY_BANDS)


def check_exif(value: str) -> str:
    """Return a value of INPUT.EXIF; raise ConfigError if it is invalid."""
    if value not in EXIF_CHOICES:
        raise ConfigError(f'INPUT.EXIF is {value!r}; choose "apply" or "ignore"')
    return value


@dataclass
class StoredImage:
    """Hold an image as it is stored in its file."""

    path: str
    orientation: int = 1  # EXIF orientation of the file; 1 if it has none
    turn_by: int = 1  # the orientation that is still to be applied to the pixels
    decoded: Image.Image | None = None  # with 8 bits per channel; None if `values` is set
    # (H, W), (H, W, 3) RGB, or (H, W, C) of which only the first three may be RGB
    values: np.ndarray | None = None
    highest: int = 255  # the highest value that a file of integers can hold
    inverted: bool = False  # whether 0 is white

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), after turning."""
        size = self.values.shape[:2] if self.decoded is None else self.decoded.size[::-1]
        return size if self.turn_by < 5 else size[::-1]

    @property
    def kind(self) -> str:
        """The type of the values, such as "8-bit", "16-bit", "32-bit integer" or "float"."""
        if self.has_bands:
            return f"{self.values.shape[2]}-band {self.values.dtype}"
        if self.values is None or self.values.dtype in (np.uint8, np.uint16):
            return f"{self.highest.bit_length()}-bit"
        bits = 8 * self.values.itemsize
        return f"{bits}-bit integer" if self.values.dtype.kind in "iu" else "float"

    @property
    def has_bands(self) -> bool:
        """Whether the channels are neither grey nor colours, with or without a fourth one."""
        return self.values is not None and self.values.shape[2:] not in ((), (3,), (4,))

    def array(self) -> np.ndarray:
        """Return the values as stored, (H, W, C), not turned."""
        if self.values is None:
            values = np.asarray(self.decoded.convert({"1": "L", "P": "RGB"}.get(self.decoded.mode)))
        else:
            values = self.values
        return values.reshape(*values.shape[:2], -1)

    def limits(self) -> tuple[float, float]:
        """Return the lowest and the highest value, without NaN and infinities."""
        if self.values is None:
            bands = self.decoded.convert("RGB").getextrema()
            low, high = min(band[0] for band in bands), max(band[1] for band in bands)
            each = (self.highest + 1) // 256  # Pillow keeps the high byte of 16-bit colours
            return low * each, high * each + each - 1
        finite = self.values[np.isfinite(self.values)]
        return (finite.min().item(), finite.max().item()) if finite.size else (0, 0)

    def as_8_bit(self, value_range: Sequence[float] = ()) -> Image.Image:
        """Return the image with 8 bits per channel, not turned.

        Raises:
            DatasetError: the values need a `value_range`.
        """
        if self.values is None:
            return self.decoded
        if self.has_bands:
            raise DatasetError(
                f"image file {self.path} has {self.values.shape[2]} bands; set INPUT.FORMAT to "
                "'BANDS', and MODEL.PIXEL_MEAN and PIXEL_STD to one number per band"
            )
        colors = self.values if self.values.ndim == 2 else self.values[:, :, :3]
        if colors.dtype == np.uint8:
            return Image.fromarray(np.ascontiguousarray(colors))
        if value_range:
            low, high = value_range
            scaled = (colors.astype(np.float64) - low) * (255 / (high - low))
            # NaN marks missing values; it becomes 0, like the lowest value.
            values = np.nan_to_num(scaled, nan=0.0).clip(0, 255).round().astype(np.uint8)
        elif colors.dtype == np.uint16:
            values = (colors.astype(np.uint32) * 256 // (self.highest + 1)).astype(np.uint8)
        else:
            low, high = self.limits()
            raise DatasetError(
                f"image file {self.path}: {self.kind} values from {low:g} to {high:g} have no "
                f"defined brightness; set {_KEY} to the values that become 0 and 255, such as "
                "[0, 1]"
            )
        return Image.fromarray(255 - values if self.inverted else values)


def read_stored(path: str, exif: str = "apply", *, exact_colors: bool = False) -> StoredImage:
    """Read an image file without scaling its values to 8 bits.

    Args:
        path: the file.
        exif: "apply" or "ignore".
        exact_colors: read all bits of colours of more than 8 bits, by OpenCV; Pillow keeps the
            upper 8.

    Raises:
        DatasetError: the file cannot be read, or OpenCV is needed and not installed.
    """
    try:
        with open_image(path, "image") as (image, content):
            if is_misread(image, content):
                raise UnidentifiedImageError
            # Before the EXIF data are read, for which Pillow decodes some PNG files; the raw mode
            # is unknown afterwards.
            packed, highest = raw_mode(image), _file_highest(image)
            stored = StoredImage(path, exif_orientation(image))
            stored.turn_by = load_pixels(image, content, exif)
            if image.mode == "F" or image.mode.startswith("I"):
                stored.values, stored.highest = _grey_values(image, packed, highest), highest
                stored.inverted = (
                    image.format == "TIFF"
                    and image.tag_v2.get(tiff.PHOTOMETRIC_INTERPRETATION) == 0
                )
            elif highest <= 255:
                stored.decoded = image if image.mode in _PLAIN else image.convert("RGB")
            elif exact_colors:
                stored.values = _read_with_opencv(content)
            else:
                stored.decoded, stored.highest = image, highest
            return stored
    except DatasetError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError) or not is_band_file(path):
            raise
    orientation = 1
    try:
        values, orientation = read_all_bands(path)
    except DatasetError:  # tifffile is not installed, or lacks a codec that OpenCV has
        values = _read_other_tiff(path)
        if values is None:
            raise
    highest = 255 if values.dtype == np.uint8 else 65535
    values = values[:, :, 0] if values.shape[2:] == (1,) else values
    turn_by = orientation if exif == "apply" else 1
    return StoredImage(path, orientation, turn_by, values=values, highest=highest)


def _file_highest(image: Image.Image) -> int:
    """Return the highest value that a channel of an opened file can hold."""
    if image.format == "PPM" and image.tile[0][0] != "raw":
        return image.tile[0][3][-1]
    if image.mode.startswith("I") or ";16" in raw_mode(image):
        return 4095 if raw_mode(image) == "I;12" else 65535
    return 255


def _grey_values(image: Image.Image, packed: str, highest: int) -> np.ndarray:
    """Return the values of a decoded grey image of more than 8 bits: uint16, int32 or float32."""
    values = np.asarray(image)
    if image.format == "PPM":  # Pillow scales these up to 65535
        return ((values.astype(np.int64) * highest + 32767) // 65535).astype(np.uint16)
    # Older versions of Pillow give PNG files of 16 bits as 32-bit integers.
    is_16_bit = image.mode.startswith("I;16") or packed in ("I;16", "I;16B", "I;16N")
    return values.astype(np.uint16) if is_16_bit else values


def _read_other_tiff(path: str) -> np.ndarray | None:
    """Read a TIFF that Pillow cannot read, such as one of float colours; None for other files."""
    with PathManager.open(path, "rb") as file:
        content = file.read()
    try:
        return _read_with_opencv(content) if content.startswith(_TIFF) else None
    except Exception:  # Pillow and OpenCV raise errors of many types for damaged files
        return None


def _read_with_opencv(content: bytes) -> np.ndarray:
    """Read (H, W, 3) RGB as stored; like Pillow, OpenCV turns TIFF files and no others."""
    if content.startswith(_TIFF):
        pages = tiff_pages(content)
        if len(pages) > 1 or is_planar(pages[0]):  # OpenCV reads one page, and no planes
            raise UnidentifiedImageError
    cv2 = quiet_opencv("reading colours of more than 8 bits")
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("OpenCV cannot decode it")
    return values if values.ndim == 2 else np.ascontiguousarray(values[:, :, 2::-1])
