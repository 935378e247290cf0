"""
Lists every message in the packages' source code: errors, advice and log messages.

An expression in a message becomes a placeholder: ``<name>`` for a variable or attribute, otherwise ``<...>``.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qwen_aiml", "daft_qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml", "pytest_qwen_aiml")
UNKNOWN = "<...>"

# The errors that a call creates, by the name of the callable. Helpers add text to their arguments.
ERRORS = {
    "ConfigurationError": ("ConfigurationError",),
    "InputError": ("InputError",),
    "InputTypeError": ("InputTypeError",),
    "InputValueError": ("InputValueError",),
    "ResponseFormatError": ("ResponseFormatError",),
    "CacheError": ("CacheError",),
    "DeadlineError": ("DeadlineError",),
    "SpentError": ("BudgetError",),
    "TransportError": ("TransportError",),
    "ModuleNotFoundError": ("ModuleNotFoundError",),
    "TypeError": ("TypeError",),
    "ValueError": ("ValueError",),
    "UsageError": ("pytest.UsageError",),
    "kind": ("APIStatusError",),
    "error": ("InputTypeError", "InputValueError"),
}
DETAILS = {"TransportFailure": 1, "_stop": 0}  # the position of the argument with the description
ADVICE = "_ADVICE"
PARTS = ("flaw", "nothing_sent", "unknown_settings")  # functions that return a part of a message
LEVELS = ("debug", "info", "warning")


@cache
def sources() -> list[tuple[Path, ast.Module]]:
    """Parse every module, in the order of their paths."""
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8")))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def errors() -> dict[str, list[str]]:
    """List the messages of each error class, except those about the emulator's arguments."""
    found: dict[str, list[str]] = {}
    for path, module in sources():
        if "emulator" in path.parts:
            continue
        for names, text in _raised(module):
            for name in names:
                found.setdefault(name, []).append(text)
    return {name: list(dict.fromkeys(texts)) for name, texts in sorted(found.items())}


def emulator() -> list[str]:
    """List the messages about the emulator's arguments."""
    found = (_raised(module) for path, module in sources() if "emulator" in path.parts)
    return sorted({text for raised in found for _, text in raised})


def details() -> list[str]:
    """List the descriptions of failures in `TransportError`."""
    return sorted(
        {
            text
            for _, module in sources()
            for function, call in _calls(module)
            if (at := DETAILS.get(_name(call.func), 9)) < len(call.args)
            for text in _texts(call.args[at], function, module)
            if not _is_placeholder(text)
        }
    )


def advice() -> list[str]:
    """List the advice that follows "What to do:" in messages."""
    found = set()
    for _, module in sources():
        for node in module.body:
            value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if ADVICE in map(_name, targets) and isinstance(value, ast.Dict):
                found |= {text for item in value.values for text in _texts(item, module, module)}
            if isinstance(node, ast.FunctionDef) and node.name == "_advice":
                rules = [
                    item.elts[1]
                    for item in ast.walk(node)
                    if isinstance(item, ast.Tuple) and len(item.elts) == len(("applies", "advice"))
                ]
                worded = (rule for rule in rules if isinstance(rule, (ast.Constant, ast.JoinedStr)))
                found |= {text for rule in worded for text in _texts(rule, node, module)}
    return sorted(text for text in found if not _is_placeholder(text))


def parts() -> list[str]:
    """List the parts of messages that functions return to describe one value."""
    return sorted(
        {
            text
            for _, module in sources()
            for function in ast.walk(module)
            if isinstance(function, ast.FunctionDef) and function.name in PARTS
            for item in ast.walk(function)
            if isinstance(item, ast.Return) and item.value is not None
            for text in _texts(item.value, function, module)
            if text != "None" and not _is_placeholder(text)
        }
    )


def logged() -> dict[str, list[str]]:
    """List the log messages by level."""
    found: dict[str, list[str]] = {}
    for _, module in sources():
        for function, call in _calls(module):
            owner = call.func.value if isinstance(call.func, ast.Attribute) else None
            name = _name(call.func)
            if _name(owner) not in {"logger", "_log"}:
                continue
            if name in LEVELS:
                found.setdefault(name.upper(), []).extend(_texts(call.args[0], function, module))
            elif name == "log":
                found.setdefault("WARNING", []).extend(_texts(call.args[1], function, module))
    return found


def page() -> str:
    """Format the page's lists."""
    lists = {
        **errors(),
        "Details of TransportError": details(),
        "Advice after “What to do:”": advice(),
        "Parts of messages about keys and texts": parts(),
        "Arguments of the emulator": emulator(),
        **{f"Log messages: {level}": texts for level, texts in sorted(logged().items())},
    }
    return "\n\n".join(f"## {name}\n\n{_listed(texts)}" for name, texts in lists.items())


def _listed(texts: Iterable[str]) -> str:
    # Markdown would read the underscores of a name such as __del__ as emphasis.
    return "\n".join(f"- <code>{escape(text).replace('_', '&#95;')}</code>" for text in texts)


def _raised(module: ast.Module) -> Iterator[tuple[tuple[str, ...], str]]:
    """Find the calls that create one of our errors, and those of helpers that return one."""
    for function, call in _calls(module):
        name, at = _name(call.func), 0
        names = ERRORS.get(name, ())
        if name == "__init__" and _name(getattr(call.func, "value", None)) == "":
            # The one class that composes its message itself.
            names = (
                ("EmbeddingBatchError",)
                if len(call.args) == 1 and isinstance(call.args[0], (ast.JoinedStr, ast.Name))
                else ()
            )
        elif name in {"_refuse", "_invalid"}:
            at = 2 if name == "_refuse" else 0
            for made in _returned(call, module):
                names = ERRORS[_name(made.func)]  # type: ignore[attr-defined]
                (around,) = _texts(made.args[0], module, module)  # type: ignore[attr-defined]
                around = around.replace("<allowed>", "{}").replace("<problem>", "{}")
                for text in _texts(call.args[at], function, module):
                    yield names, around.replace("{}", text)
            continue
        elif isinstance(function, ast.FunctionDef) and function.name in {"_refuse", "_invalid"}:
            continue
        if names and len(call.args) > at:
            for text in _texts(call.args[at], function, module):
                if not re.fullmatch("(<[a-z_.]+>(: )?)+", text):
                    yield names, text


def _calls(module: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Yield every call with its enclosing function."""

    def within(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
            if isinstance(child, ast.Call):
                yield function, child
            yield from within(child, inner)

    yield from within(module, module)


def _texts(node: ast.expr, function: ast.AST, module: ast.Module) -> list[str]:  # noqa: PLR0911 (one per kind)
    """Return the possible texts of an expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        texts = [""]
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            ends = _ends(inner, function, module) or [_placeholder(part)]
            texts = [text + end for text in texts for end in ends]
        return texts
    if isinstance(node, ast.BinOp):
        return [
            left + right
            for left in _texts(node.left, function, module)
            for right in _texts(node.right, function, module)
        ]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, function, module) + _texts(node.orelse, function, module)
    if isinstance(node, ast.Name) and node.id in constants():
        return [constants()[node.id]]
    if isinstance(node, ast.Name):
        assigned = [
            item.value
            for item in ast.walk(function)
            if isinstance(item, ast.Assign)
            and _name(item.targets[0]) == node.id
            and node.id not in map(_name, ast.walk(item.value))
        ]
        return [text for value in assigned for text in _texts(value, function, module)] or [
            _placeholder(node)
        ]
    if isinstance(node, ast.Call) and _name(node.func) == "advised":
        happened, advice = (_texts(argument, function, module) for argument in node.args)
        return [f"{what}. What to do: {then}" if then else what for what in happened for then in advice]
    if isinstance(node, ast.Call):
        return [text for value in _returned(node, module) for text in _texts(value, module, module)] or [
            UNKNOWN
        ]
    return [_placeholder(node)]


def _ends(node: ast.expr, function: ast.AST, module: ast.Module) -> list[str]:
    """Return the possible texts of a part of a message, if they are few and constant."""
    if isinstance(node, ast.Call) and _name(node.func) == "_advice" and _returned(node, module):
        return _texts(node, function, module)
    if isinstance(node, ast.Name) and node.id in constants():
        return [constants()[node.id]]
    if isinstance(node, ast.Name) and node.id in {"said", "message"}:
        texts = _texts(node, function, module)
        if node.id == "message":
            return texts
        return [] if any("<" in text for text in texts) else texts
    return []


@cache
def constants() -> dict[str, str]:
    """Read the modules' string constants that messages contain."""
    found = {}
    for _, module in sources():
        for node in module.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                name, value = _name(node.targets[0]), node.value.value
                if name.isupper() and isinstance(value, str):
                    found[name] = value
    return found


def _returned(call: ast.Call, module: ast.Module) -> list[ast.expr]:
    """Return the expressions that a function of the same module may return."""
    return [
        item.value
        for function in module.body
        if isinstance(function, ast.FunctionDef) and function.name == _name(call.func)
        for item in ast.walk(function)
        if isinstance(item, ast.Return) and item.value is not None
    ]


def _is_placeholder(text: str) -> bool:
    return bool(re.fullmatch("<[a-z_.]+>", text))


def _placeholder(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(inner, ast.Attribute) and inner.attr in {"__name__", "__qualname__"}:
        return "<type>"
    if isinstance(inner, ast.Subscript):
        return _placeholder(inner.value)
    return f"<{_name(inner).strip('_').lower()}>" if _name(inner) else UNKNOWN


def _name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
