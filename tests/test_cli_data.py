"""The command line on data that is missing: one line, exit code 2, and no trial was started."""

import pytest
import yaml
from conftest import esam_tune, journal_events, tiny_space
from PIL import Image

pytestmark = pytest.mark.e2e


def sweep(tmp_path, task, **variables):
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(tiny_space(task={"model": "small_cnn", **task})))
    answer = esam_tune(
        "sweep",
        space,
        "--storage",
        tmp_path / "runs",
        ESAM_TUNE_DATA=str(tmp_path / "data"),
        **variables,
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert journal_events(tmp_path / "runs", "tiny") == []
    return answer.stderr.splitlines()[-1]


def test_a_set_that_cannot_be_downloaded(tmp_path):
    # A proxy that is not there: no request leaves this machine.
    nowhere = dict.fromkeys(("https_proxy", "http_proxy"), "http://127.0.0.1:9")
    line = sweep(tmp_path, {"dataset": "cifar100"}, **nowhere)
    assert "task.dataset: cifar100 is not in" in line
    assert "put cifar-100-python.tar.gz there" in line


def test_a_folder_whose_image_is_damaged(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 40)).save(folder / f"{number}.png")
    (folder / "0.png").write_bytes(b"damaged")
    line = sweep(tmp_path, {"dataset": "folder", "data_dir": str(tmp_path / "images")})
    assert f"task.data_dir: the image '{folder}/0.png' cannot be read" in line


def test_a_setting_that_the_data_set_does_not_read(tmp_path):
    line = sweep(tmp_path, {"dataset": "digits", "samples": 5000})
    assert "task.samples: digits does not read it, got 5000; remove it" in line
