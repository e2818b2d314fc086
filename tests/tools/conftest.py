"""Running a program of ``tools/`` in this process."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.drawn import evaluate_drawn_shapes


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory) -> Path:
    """Output folder of an evaluation, with its data beside it."""
    return evaluate_drawn_shapes(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def run_tool(repository, capsys, monkeypatch) -> Callable[..., tuple[object, str, str]]:
    """Call ``main`` of a program: exit code, stdout and stderr."""

    def run(name: str, *argv: object) -> tuple[object, str, str]:
        path = Path(repository) / "tools" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"tools_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        capsys.readouterr()
        code: object = 0
        try:
            module.main([str(argument) for argument in argv])
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run
