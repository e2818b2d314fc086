"""The command line."""

import pytest

from flash_internimage.cli.arguments import argument_parser, parse_arguments


def test_flags_and_overrides_in_any_order():
    args = parse_arguments(["train.seed=1", "--config-file", "a.py", "train.max_iter=2", "--resume"])
    assert (args.config_file, args.resume, args.eval_only, args.num_gpus) == ("a.py", True, False, None)
    assert args.overrides == ["train.seed=1", "train.max_iter=2"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: --config-file"),
        (["--config-file", "a.py", "--num-gpus", "0"], "--num-gpus 0: expected 1 or more"),
        (["--config-file", "a.py", "--evalonly"], "unrecognized arguments: --evalonly"),
    ],
)
def test_mistakes_end_with_code_2(argv, message, capsys):
    with pytest.raises(SystemExit) as info:
        parse_arguments(argv)
    assert info.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_commands(capsys):
    text = argument_parser().format_help()
    for part in ("torchrun --nproc_per_node 8 train_net.py", "--eval-only --config-file", "data.train.json="):
        assert part in text
