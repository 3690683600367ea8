"""Configs are found by name, in a checkout and in an installed wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hiera_seg.errors import ConfigError
from hiera_seg.model_zoo import config_names, get_config_file

TOP = Path(__file__).resolve().parents[2]
CAMVID = "CamVid/hssn_deeplab_v3_plus_r18.yaml"
PAPER = "projects/HSSN/configs/Cityscapes/paper_deeplab_v3_plus_r101.yaml"


def test_names_are_those_of_the_folders():
    assert Path(get_config_file(CAMVID)) == TOP / "configs" / CAMVID
    assert Path(get_config_file(f"configs/{CAMVID}")) == TOP / "configs" / CAMVID
    assert Path(get_config_file(PAPER)) == TOP / PAPER


@pytest.mark.parametrize("name", ["CamVid/hssn_deeplab_v3_plus_r81.yaml", "../setup.py", ""])
def test_unknown_name_is_refused_with_the_nearest(name):
    with pytest.raises(ConfigError) as error:
        get_config_file(name)
    assert repr(name) in str(error.value)
    assert "r81" not in name or CAMVID in str(error.value)


READ_ALL = """
import sys
sys.path.insert(0, sys.argv[1])
import hiera_seg
from detectron2.config import CfgNode
from hiera_seg.model_zoo import config_names, get_config_file
assert hiera_seg.__file__.startswith(sys.argv[1])
for name in config_names():
    assert get_config_file(name).startswith(sys.argv[1])
    CfgNode.load_yaml_with_base(get_config_file(name), allow_unsafe=False)
print(*config_names(), sep="\\n")
"""


def test_wheel_holds_all_configs_and_tools(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    source = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=TOP, capture_output=True
    )
    if files.returncode:
        pytest.skip("needs a git checkout")
    for name in filter(None, files.stdout.decode().split("\0")):
        if name.startswith(("hiera_seg/", "tools/", "configs/", "projects/", "setup.py", "README")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((TOP / name).read_bytes())
    subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("hiera_seg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
        (scripts,) = (archive.read(n).decode() for n in names if n.endswith("entry_points.txt"))
    assert "hiera_seg_tools/train_net.py" in names and "hiera_seg_tools/demo.py" in names
    for data in ("camvid11", "pascal_person_part"):  # of shipped configs
        assert f"hiera_seg/data/datasets/{data}_train_pixels.json" in names
    assert "hiera-seg-train = hiera_seg_tools.train_net:command_line" in scripts
    assert "hiera-seg-demo = hiera_seg_tools.demo:command_line" in scripts
    read = [sys.executable, "-c", READ_ALL, str(tmp_path / "installed")]
    done = subprocess.run(read, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == config_names()
