"""Holds every name of TensorRT that the code uses against what each version has.

The sources are parsed, not run. A variable's name says what it holds: each name on which the code reads an attribute is
either one of TensorRT's classes below or stands among the names that have nothing to do with TensorRT; a name that is
in neither list fails the test, so that nothing goes by unseen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.tensorrt_simulator.rules import API, VERSIONS, members

ROOT = Path(__file__).parents[2]
FILES = (
    "runtime/backends/tensorrt.py",
    "runtime/backends/tensorrt_slot.py",
    "export/engine.py",
    "export/engine_layers.py",
)
MODULE = "tensorrt"

NAME_TO_CLASS = {
    "trt": MODULE,
    "before": "ILayer",
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "output": "ITensor",
    "parser": "OnnxParser",
    "plan": "IHostMemory",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "source": "ILayer",
    "taken": "ITensor",
}
ATTRIBUTE_TO_CLASS = {"_trt": MODULE, "_engine": "ICudaEngine", "_context": "IExecutionContext"}  # of self

# What a method gives that is used at once, without a name.
RESULT_TO_CLASS = {"get_input": "ITensor", "get_output": "ITensor", "get_timing_cache": "ITimingCache"}

NOT_TENSORRT = {
    # modules and classes
    *("Bundle", "EngineOptions", "hashlib", "json", "np", "re", "threading"),
    # objects of this project
    *(
        "build",
        "buffer",
        "bundle",
        "cuda",
        "gpu",
        "image",
        "known",
        "log",
        "machine",
        "options",
        "progress",
        "record",
        "self",
        "slot",
    ),
    "variant",
    # texts, numbers, tables and paths
    *(
        "DATATYPE_SPELLINGS",
        "WEIGHTED_LAYERS",
        "aside",
        "counts",
        "datatypes",
        "engine_aside",
        "file",
        "folder",
        "found",
        "layer",
        "model",
        "msg",
        "name_to_source",
        "names",
        "part",
        "path",
    ),
    *("reasons", "record_aside", "seen", "tensor", "told", "version", "waiting", "weights"),
    # the standard library's threads
    "pool",
}
# An `error` is also an exception of Python: this attribute is its own.
OTHER_ATTRIBUTES = {"error": {"strerror"}}

# What an object of ours holds that is not TensorRT's.
OTHER_OWN_ATTRIBUTES = {
    *("_bar", "_contexts", "_count_to_graph", "_counts_seen", "_cuda", "_held", "_idle", "_input", "_known", "_log"),
    *("_options", "_output", "path"),
}

# Functions and classes of Python's, called and used at once.
OTHER_RESULTS = {"Counter", "super"}

# What only some versions have, and the test of the code that keeps the others away from it.
GUARDED = {"HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": {"10.13", "10.16", "11"}}


@dataclass(frozen=True)
class Use:
    """One use of a name of TensorRT in the code."""

    file: str
    line: int
    owner: str  # a class of TensorRT, or the module itself
    member: str
    keywords: tuple[str, ...] = ()
    is_made: bool = False  # an object of the class, without the self that a subclass hands over
    positional: int | None = None  # how many arguments; None where it is not called, or called with *arguments

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.owner}.{self.member}"


class UnknownNameError(Exception):
    """A name of which the test does not know whether it is TensorRT's."""


def owner_of(node: ast.expr) -> str | None:
    """Return the class of TensorRT that an expression is, None where it is something else."""
    if isinstance(node, ast.Name):
        if node.id in NAME_TO_CLASS:
            return NAME_TO_CLASS[node.id]
        if node.id in NOT_TENSORRT:
            return None
        raise UnknownNameError(node.id)
    if isinstance(node, ast.Attribute):
        return _owner_of_attribute(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _owner_of_result(node.func)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OTHER_RESULTS:
        return None
    if isinstance(node, ast.Subscript) and owner_of(node.value) is None:
        return None
    if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):  # texts, and paths put together
        return None
    raise UnknownNameError(ast.unparse(node))


def _owner_of_attribute(node: ast.Attribute) -> str | None:
    if isinstance(node.value, ast.Name) and node.value.id == "self":
        if node.attr not in ATTRIBUTE_TO_CLASS and node.attr not in OTHER_OWN_ATTRIBUTES:
            raise UnknownNameError(ast.unparse(node))
        return ATTRIBUTE_TO_CLASS.get(node.attr)
    owner = owner_of(node.value)
    if owner == MODULE:
        return node.attr
    nested = f"{owner}.{node.attr}"
    return nested if nested in API["classes"] else None


def _owner_of_result(method: ast.Attribute) -> str | None:
    if owner_of(method.value) is None:
        return None
    if method.attr not in RESULT_TO_CLASS:
        raise UnknownNameError(f"what {ast.unparse(method)} gives")
    return RESULT_TO_CLASS[method.attr]


def uses(file: str) -> Iterator[Use]:
    """Yield every use of TensorRT in a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from _overridden(file, node)
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.attr in OTHER_ATTRIBUTES.get(node.value.id, ()):
            continue
        owner = owner_of(node.value)
        if owner is not None:
            yield _use(file, node, owner, calls.get(id(node)))


def _use(file: str, node: ast.Attribute, owner: str, call: ast.Call | None) -> Use:
    if call is None:
        return Use(file, node.lineno, owner, node.attr)
    keywords = tuple(keyword.arg or "**" for keyword in call.keywords)
    spread = any(isinstance(argument, ast.Starred) for argument in call.args)
    return Use(file, node.lineno, owner, node.attr, keywords, positional=None if spread else len(call.args))


def _overridden(file: str, node: ast.ClassDef) -> Iterator[Use]:
    """Yield the methods of TensorRT that a class of ours overrides, with their arguments as keywords."""
    for base in node.bases:
        if isinstance(base, ast.Attribute) and owner_of(base.value) == MODULE:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
                    names = tuple(argument.arg for argument in method.args.args[1:])
                    if method.name in members(base.attr, VERSIONS[0]):
                        yield Use(file, method.lineno, base.attr, method.name, names)


def problem(use: Use, version: str) -> str:
    """Return what is wrong with a use in a version, empty where nothing is."""
    if use.owner == MODULE:
        is_there = use.member in API["classes"] and version in API["classes"][use.member]["versions"]
        if is_there and use.positional is not None:
            return problem(replace(use, owner=use.member, member="__init__", is_made=True), version)
        return "" if is_there or use.member in API["module"] else f"{use}: not in {version}"
    member = members(use.owner, version).get(use.member)
    if member is None:
        nested = f"{use.owner}.{use.member}" in API["classes"]
        guard = GUARDED.get(f"{use.owner}.{use.member}")
        return "" if nested or (guard is not None and version not in guard) else f"{use}: not in {version}"
    if use.positional is None and not use.keywords:
        return ""
    signatures = member.get("signature_by_version", {}).get(version) or member.get("signature", [])
    if any(_accepts(signature, use) for signature in signatures):
        return ""
    return f"{use}: called with {use.positional} arguments and {use.keywords}, {version} takes {signatures}"


def _accepts(signature: str, use: Use) -> bool:
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    described = [part.strip() for part in inside.split(",") if part.strip()]
    names = [part.split("=")[0] for part in described]
    required = [part for part in described if "=" not in part]
    given = (use.positional or 0) + len(use.keywords)
    if use.member == "__init__" and not use.is_made:
        given -= 1  # self, given by hand
    return set(use.keywords) <= set(names) and len(required) <= given <= len(names)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_every_name_of_tensorrt_that_is_used_is_there(file: str, version: str) -> None:
    problems = [said for said in (problem(use, version) for use in uses(file)) if said]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("file", FILES)
def test_tensorrt_is_asked_for_names_in_no_hidden_way(file: str) -> None:
    """getattr and setattr would hide a name from the test above; hasattr may ask for a guarded one."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        name = call.func.id  # type: ignore[attr-defined]  # a Name, by the line above
        if name == "hasattr":
            owner, asked = owner_of(call.args[0]), ast.literal_eval(call.args[1])
            assert f"{owner}.{asked}" in GUARDED
        elif name in ("getattr", "setattr"):
            assert ast.unparse(call.args[0]) in ("error",), ast.unparse(call)
            assert ast.literal_eval(call.args[1]) in OTHER_ATTRIBUTES["error"]


def test_what_is_guarded_is_used_and_really_missing_somewhere() -> None:
    used = {f"{use.owner}.{use.member}" for file in FILES for use in uses(file)}
    for name, versions in GUARDED.items():
        owner, member = name.rsplit(".", 1)
        assert name in used
        assert {version for version in VERSIONS if member in members(owner, version)} == versions


def test_no_other_file_uses_tensorrt() -> None:
    sources = [
        path for package in ("runtime", "export", "benchmarks", "train") for path in (ROOT / package).rglob("*.py")
    ]
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if re.search(
            r"^\s*(?:import tensorrt|from tensorrt)|import_tensorrt\(\)|\btrt\.", path.read_text("utf-8"), re.M
        )
    }
    assert importing == set(FILES)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16: not in 11"),
        ("trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "EXPLICIT_BATCH: not in 11"),
        ("builder.platform_has_fast_fp16", "Builder.platform_has_fast_fp16: not in 11"),
        ("config.set_timing_cache(cache, mismatch=False)", "called with 1 arguments"),
        ("trt.OnnxParser(network)", "called with 1 arguments"),
        ("context.execute_async_v3(1, 2)", "called with 2 arguments"),
        ("engine.device_memory_size", "ICudaEngine.device_memory_size: not in 11"),
        ("config.get_timing_cache().save()", "ITimingCache.save: not in 10.3"),
        ("self._context.execute_v3(1)", "IExecutionContext.execute_v3: not in 10.3"),
    ],
)
def test_this_test_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "code.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr("tests.runtime.test_tensorrt_api.ROOT", tmp_path)
    problems = [problem(use, version) for version in VERSIONS for use in uses("code.py")]
    assert any(said in text for text in problems)


def test_this_test_refuses_a_name_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.runtime.test_tensorrt_api.ROOT", tmp_path)
    for code in ("refitter.refit()", "self._refitter.refit()", "builder.create_refitter().refit()", "made[0].refit()"):
        (tmp_path / "code.py").write_text(code, encoding="utf-8")
        with pytest.raises(UnknownNameError):
            list(uses("code.py"))
