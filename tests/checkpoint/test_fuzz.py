"""20,000 mutated checkpoints: no crash, and nothing but plain data comes out of them."""

import json
from pathlib import Path

import pytest

from tests.helpers import run_python

pytest.importorskip("resource", reason="memory is limited on POSIX systems only")
CASES = 20000


def test_mutated_checkpoints_end_in_an_error_or_in_plain_data():
    script = Path(__file__).with_name("fuzz_pickles.py")
    run = run_python("-X", "faulthandler", script, "--cases", CASES, "--seed", 0)
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout)
    print(report)
    assert report["cases"] == CASES
    assert report["loaded"] > CASES / 20 and report["RefusedPickle"] > CASES / 20
    assert (report["foreign"], report["errors"], report["changed"]) == ([], [], False)
