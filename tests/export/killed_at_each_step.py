"""Kills a process at each change that it makes to the disk, one run for each change; a program, because it forks.

python -m tests.export.killed_at_each_step SCENARIO FOLDER
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from export.engine import EngineOptions, build_engine
from export.install import InstallOptions, install_bundle, roll_back
from runtime.backends.tensorrt import find_engine
from runtime.bundle import Bundle
from runtime.errors import DataError
from runtime.files import sha256_of_file
from runtime.folders import folder_written_aside
from runtime.schema import CARD_NAME, GOLDEN_NAME, MANIFEST_NAME
from tests.tensorrt_simulator.install import install as install_tensorrt

CHANGES = ("os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir")
FOR_WRITING = os.O_WRONLY | os.O_RDWR


def main(scenario: str, folder: Path) -> None:
    """Run a scenario on the bundles in the folder; print how many steps were tried."""
    install_tensorrt(pytest.MonkeyPatch(), "10.3")
    os.fsync = lambda _: None  # type: ignore[assignment]  # what a killed process wrote is there, and disks are slow
    bundles = sorted(folder.glob("bundle*"))
    if scenario == "engine":
        print(_killed_while_an_engine_is_built(bundles[0]))
        return
    if scenario == "replace":
        print(_killed_while_a_bundle_is_replaced(folder / "exported", *bundles[:2]))
        return
    device = folder / "device"
    for bundle in bundles[:2]:
        _install(bundle, device)
    print(_killed_on_a_device(device, bundles, roll_back_is_killed=scenario == "roll-back"))


def _killed_on_a_device(device: Path, bundles: list[Path], *, roll_back_is_killed: bool) -> int:
    first, second, third = map(_content, bundles)

    def act(to: Path) -> None:
        if roll_back_is_killed:
            roll_back(to, _say_nothing, _proved)
        else:
            _install(bundles[2], to)

    used, steps = set(), 0
    for steps, to in enumerate(killed_at_each_step(device, act), start=1):  # noqa: B007
        current = _content(to / "current")
        _proved(to / "current", "tensorrt", "fp16")
        used.add(current)
        _install(bundles[2], to)
        _proved(to / "current", "tensorrt", "fp16")
        before = second if current == third else current
        assert (_content(to / "current"), _content(to / "previous")) == (third, before)
        assert sorted(path.name for path in to.iterdir()) == ["current", "installed", "previous"]
        assert len(list((to / "installed").iterdir())) == 2
        assert len(list((to / "current" / "engines").iterdir())) == 3
    assert used == {second, first if roll_back_is_killed else third}, "killed before the switch and after it"
    return steps


def _killed_while_an_engine_is_built(bundle: Path) -> int:
    def act(folder: Path) -> None:
        build_engine(folder, EngineOptions("fp16"), _say_nothing)

    steps = 0
    for steps, folder in enumerate(killed_at_each_step(bundle, act), start=1):  # noqa: B007
        Bundle.open(folder)
        act(folder)
        _proved(folder, "tensorrt", "fp16")
        assert len(list((folder / "engines").iterdir())) == 3
    return steps


def _killed_while_a_bundle_is_replaced(before: Path, first: Path, second: Path) -> int:
    def act(folder: Path) -> None:
        with _written_aside(folder) as aside:
            shutil.copytree(second, aside, dirs_exist_ok=True)

    def start(folder: Path) -> None:
        with suppress(DataError), _written_aside(folder):
            raise DataError("expected the cells of the run, found none")

    shutil.copytree(first, before / "bundle")
    used, steps = set(), 0
    for steps, folder in enumerate(killed_at_each_step(before, act), start=1):  # noqa: B007
        start(folder)
        used.add(_content(folder / "bundle"))
        assert [path.name for path in folder.iterdir()] == ["bundle"]
        act(folder)
        assert _content(folder / "bundle") == _content(second)
        assert [path.name for path in folder.iterdir()] == ["bundle"]
    assert used == {_content(first), _content(second)}, "killed before the new one is in place and after it"
    return steps


def _written_aside(folder: Path) -> AbstractContextManager[Path]:
    """Write a bundle into a folder as an export does."""
    return folder_written_aside(folder / "bundle", MANIFEST_NAME, ("model.*.onnx", GOLDEN_NAME, CARD_NAME))


def killed_at_each_step(before: Path, act: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a copy of the folder after a process that acted on it was killed at its first change, its second, …"""
    for step in count(1):
        place = before.with_name("killed") / before.name
        shutil.copytree(before, place, symlinks=True)
        if not _is_killed(act, place, step):
            return
        yield place
        shutil.rmtree(place)


def _is_killed(act: Callable[[Path], None], place: Path, step: int) -> bool:
    child = os.fork()
    if child == 0:
        left = step

        def kill(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES or (event == "open" and arguments[2] & FOR_WRITING):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            act(place)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _install(bundle: Path, to: Path) -> None:
    install_bundle(bundle, to, InstallOptions(public_key=None, precision="fp16"), _say_nothing, _proved)


def _proved(bundle: Path, _backend: str, _precision: str) -> str:
    """Say whether all is whole that a self-test would load."""
    opened = Bundle.open(bundle)
    engine, record = find_engine(opened.folder, "fp16", opened.variant("fp16").sha256)
    assert sha256_of_file(engine) == record.engine_sha256
    return "whole"


def _content(bundle: Path) -> str:
    return Bundle.open(bundle).content_sha256


def _say_nothing(_: str) -> None:
    """Take a line that nobody reads here."""


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
