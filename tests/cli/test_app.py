"""Arguments of the web page, and messages instead of tracebacks; the page itself is tested in tests/app."""

import socket

import pytest

from flash_internimage import model_zoo
from flash_internimage.app.page import build_page
from flash_internimage.cli import app
from flash_internimage.cli.main import command_parser
from flash_internimage.engine.config import save_config
from flash_internimage.engine.views import set_views
from flash_internimage.errors import UserError
from flash_internimage.views import ViewOptions


@pytest.mark.parametrize("port", ["0", "-1", "65536", "web"])
def test_a_port_that_is_none(port, capsys):
    with pytest.raises(SystemExit):
        command_parser("app").parse_args(["--port", port])
    assert "argument --port: expected" in capsys.readouterr().err


def test_without_arguments_the_published_detectors_are_offered():
    models = app.chosen_models(command_parser("app").parse_args([]))
    assert len(models.names) == 12


def test_weights_alone_are_not_enough(flash_internimage):
    done = flash_internimage("app", "--weights", "model.pth")
    assert (done.returncode, "--config-file: needed, except with an exported file" in done.stderr) == (2, True)


def test_tiles_of_the_config_are_announced(nano_checkpoint, tmp_path, capsys):
    cfg = model_zoo.get_config("mask_rcnn_flash_internimage_nano")
    set_views(cfg, ViewOptions(tile=64))
    save_config(cfg, str(tmp_path / "config.yaml"))
    flags = ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(nano_checkpoint), "train.device=cpu"]
    app.chosen_models(command_parser("app").parse_args(flags))
    assert capsys.readouterr().out == "tiles of 64 pixels, from the config\n"
    app.chosen_models(command_parser("app").parse_args([*flags, "dataloader.test.mapper.tile=null"]))
    assert capsys.readouterr().out == ""


def test_gradio_is_missing(monkeypatch):
    def missing(name, purpose):
        raise UserError(f"{purpose} needs {name}")

    monkeypatch.setattr("flash_internimage.app.page.require", missing)
    with pytest.raises(UserError, match="the app needs gradio"):
        build_page(app.chosen_models(command_parser("app").parse_args([])))


def test_a_port_in_use_is_one_sentence():
    pytest.importorskip("gradio")
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        number = used.getsockname()[1]
        args = command_parser("app").parse_args(["--port", str(number)])
        with pytest.raises(UserError, match=f"--port {number}: cannot be served .*; choose another --port"):
            app.run(args)
