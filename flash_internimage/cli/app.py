"""Serve a web page on which a detector is tried on images and videos.

Examples:

  the published detectors; each is downloaded when it is first used:
    flash-internimage app

  a checkpoint of your own:
    flash-internimage app --config-file output/config.yaml --weights output/model_final.pth

  for other computers of the network:
    flash-internimage app --host 0.0.0.0 --port 8080

The page needs Gradio: pip install gradio (the extra [app]). Anyone who can reach it can run the detector; it has no password.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flash_internimage.app.detection import LOWEST_SCORE
from flash_internimage.app.models import Models, published_models
from flash_internimage.app.page import build_page
from flash_internimage.errors import UserError
from flash_internimage.inference import Predictor

from .arguments import add_config, add_overrides, add_weights, positive
from .chosen_model import chosen_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, unless="for the published detectors, and with an exported file as --weights")
    add_weights(parser)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to serve on (127.0.0.1)")
    parser.add_argument("--port", type=port, default=7860, metavar="N", help="port to serve on (7860)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    page = build_page(chosen_models(args))
    try:
        page.launch(server_name=args.host, server_port=args.port, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        raise UserError(f"--host {args.host} --port {args.port}: cannot be served ({error}); choose another --port") from None
    print(f"the page is at http://{args.host}:{args.port}; stop with Ctrl-C", flush=True)
    page.block_thread()
    return 0


def port(text: str) -> int:
    """Parse a TCP port."""
    if positive(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text}")
    return int(text)


def chosen_models(args: argparse.Namespace) -> Models:
    """Return the detector that the arguments name, loaded; without one, the published detectors."""
    if args.config_file is None and args.weights is None and not args.overrides:
        return Models(published_models())
    predictor = Predictor(chosen_model(args), min_score=LOWEST_SCORE)
    if not predictor.views.is_whole_image:
        print(f"{predictor.views}, from the config")
    return Models({Path(args.weights or args.config_file).name: lambda: predictor})
