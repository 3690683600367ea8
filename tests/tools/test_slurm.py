"""tools/slurm/train.sbatch, with a Slurm made of two small scripts."""

import os
import subprocess
from pathlib import Path

SBATCH = Path(__file__).parents[2] / "tools/slurm/train.sbatch"


def test_the_batch_file_starts_one_torchrun_a_machine_with_what_was_asked_for(tmp_path):
    stubs = {"scontrol": "echo node7; sleep 0.1; echo node8", "srun": 'printf "%s\\n" "$@"; env'}
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
    }
    options = ["--config-file", "a b.yaml", "OUTPUT_DIR", "out"]
    done = subprocess.run(
        ["bash", str(SBATCH), *options], env=job, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["--cpus-per-task", "32", "torchrun"]
    asked = dict(zip(lines[3:], lines[4:], strict=False))
    assert asked["--nnodes"] == "2"
    assert asked["--nproc-per-node"] == "4"
    assert asked["--rdzv-id"] == "1234567"
    assert asked["--rdzv-endpoint"] == "node7:34567"
    start = lines.index("tools/train_net.py")
    assert lines[start : start + 6] == ["tools/train_net.py", "--resume", *options]
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in lines
