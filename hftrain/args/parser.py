"""``HfArgumentParser``: dataclasses on a command line, in a dict, in a JSON or in a YAML file."""

from __future__ import annotations

import json
import os
import sys
import types
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hftrain.args.conversion import UnfitError
from hftrain.args.conversion import to_dict as read_dict
from hftrain.errors import ConfigurationError

WORDS = {"yes": True, "true": True, "t": True, "y": True, "1": True}
WORDS |= {"no": False, "false": False, "f": False, "n": False, "0": False}
NONE = type(None)
# One word or a list of them; the reference's parser takes one word for such a type.
SEVERAL_WORDS = ("report_to",)


class HfArgumentParser(ArgumentParser):
    """An ``ArgumentParser`` that makes its options of the fields of dataclasses, and fills the dataclasses again.

    A field ``warmup_steps`` is ``--warmup_steps`` and ``--warmup-steps``. Its type hint says how the text is read: a
    list takes several words, an enum or a ``Literal`` one of its values, a dict JSON text or the name of a JSON file.
    A switch (bool) may stand alone or be followed by a truth value; one that is True by default can also be turned off
    by ``--no_name`` or ``--no-name``. A field's metadata are keyword arguments of ``add_argument``: ``help``,
    ``choices``, ``metavar``; ``aliases`` are further option strings.

    Args:
        dataclass_types: a dataclass, or several; one with ``_argument_group_name`` gets its own group in the help.
        kwargs: those of ``ArgumentParser``.

    Raises:
        ConfigurationError: the type of a field cannot be read from a command line.
    """

    dataclass_types: list[Any]

    def __init__(self, dataclass_types: Any = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", ArgumentDefaultsHelpFormatter)
        super().__init__(**kwargs)
        is_alone = isinstance(dataclass_types, type) or not isinstance(dataclass_types, Iterable)
        self.dataclass_types = [dataclass_types] if is_alone else list(dataclass_types)
        self.dataclass_types = [kind for kind in self.dataclass_types if kind is not None]
        for kind in self.dataclass_types:
            self._add_fields_of(kind)

    def parse_args_into_dataclasses(
        self,
        args: list[str] | None = None,
        return_remaining_strings: bool = False,
        look_for_args_file: bool = True,
        args_filename: str | None = None,
        args_file_flag: str | None = None,
    ) -> tuple[Any, ...]:
        """Read a command line; where an option is given twice, the last one counts.

        Args:
            args: the command line's words; None: those of this process.
            return_remaining_strings: return what no option is known for, rather than raise.
            look_for_args_file: words are also read from ``<script>.args`` beside the script, if that is there.
            args_filename: the file to read instead of that one, if it is there.
            args_file_flag: an option (such as ``--args_file``) by which the command line itself names such files; it
                may be given several times. The command line overrules them all.

        Returns:
            An instance of each dataclass, in their order; then a namespace, if options were added to the parser that
            belong to no dataclass; then the list of remaining words, if that was asked for.

        Raises:
            ConfigurationError: words remain, or a file named by ``args_file_flag`` cannot be read.
        """
        words = sys.argv[1:] if args is None else list(args)
        files = _files_beside_the_script(args_filename, look_for_args_file)
        named, words = _files_on_the_command_line(args_file_flag, words)
        from_files = [word for file in [*files, *named] for word in file.read_text(encoding="utf-8").split()]
        namespace, remaining = self.parse_known_args([*from_files, *words])
        if remaining and not return_remaining_strings:
            known = list(self._option_string_actions)
            raise ConfigurationError(f"The command line has {_unknown(remaining, known)}.")
        outputs = self._filled(namespace)
        return (*outputs, remaining) if return_remaining_strings else tuple(outputs)

    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Return an instance of each dataclass, filled from a dict.

        Raises:
            ConfigurationError: the dict has keys that no dataclass takes, and ``allow_extra_keys`` is False.
        """
        return self._from_dict("The dict", args, allow_extra_keys)

    def parse_json_file(self, json_file: str | os.PathLike[str], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Return an instance of each dataclass, filled from the object in a JSON file; see ``parse_dict``.

        Raises:
            ConfigurationError: the file is no JSON object, or has keys that no dataclass takes.
        """
        try:
            document = json.loads(Path(json_file).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"{os.fspath(json_file)} is not valid JSON: {error}.") from error
        return self._from_dict(os.fspath(json_file), document, allow_extra_keys)

    def parse_yaml_file(self, yaml_file: str | os.PathLike[str], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Return an instance of each dataclass, filled from the mapping in a YAML file; see ``parse_dict``.

        Raises:
            ConfigurationError: the file is no YAML mapping, or has keys that no dataclass takes.
        """
        import yaml

        try:
            document = yaml.safe_load(Path(yaml_file).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{os.fspath(yaml_file)} is not valid YAML: {error}.") from error
        return self._from_dict(os.fspath(yaml_file), document, allow_extra_keys)

    def _from_dict(self, source: str, document: Any, allow_extra_keys: bool) -> tuple[Any, ...]:
        if not isinstance(document, Mapping):
            raise ConfigurationError(f"{source} holds {document!r:.80}; an argument's name for each value is expected.")
        taken = [{name: document[name] for name in _names(kind) if name in document} for kind in self.dataclass_types]
        extra = [str(key) for key in document if not any(key in part for part in taken)]
        if extra and not allow_extra_keys:
            known = [name for kind in self.dataclass_types for name in _names(kind)]
            raise ConfigurationError(f"{source} has {_unknown(extra, known)}.")
        return tuple(kind(**part) for kind, part in zip(self.dataclass_types, taken, strict=True))

    def _filled(self, namespace: Namespace) -> list[Any]:
        values = vars(namespace)
        outputs: list[Any] = []
        for kind in self.dataclass_types:
            outputs.append(kind(**{name: values[name] for name in _names(kind) if name in values}))
        ours = {name for kind in self.dataclass_types for name in _names(kind)}
        others = {name: value for name, value in values.items() if name not in ours}
        return [*outputs, Namespace(**others)] if others else outputs

    def _add_fields_of(self, kind: Any) -> None:
        group = getattr(kind, "_argument_group_name", None)
        target = self if group is None else self.add_argument_group(group)
        try:
            hints = get_type_hints(kind)
        except NameError as error:
            raise ConfigurationError(
                f"The type hints of {kind.__name__} cannot be resolved ({error}). Define the class and its types at "
                "the top of a module."
            ) from error
        for field in fields(kind):
            if field.init:
                _add_option(target, field, hints[field.name])


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind) if field.init]


def _add_option(target: Any, field: Field[Any], hint: Any) -> None:
    """Add a field's option, and the one that turns it off if it is a switch that is on by default."""
    metadata = dict(field.metadata)
    aliases = metadata.pop("aliases", [])
    declared = _one_type(field.name, hint)
    target.add_argument(
        *_spellings(f"--{field.name}"),
        *([aliases] if isinstance(aliases, str) else aliases),
        **metadata | _reading(field, hint, declared),
    )
    if declared is bool and field.default is True:
        target.add_argument(
            *_spellings(f"--no_{field.name}"), action="store_false", dest=field.name, **metadata | {"default": False}
        )


def _one_type(name: str, hint: Any) -> Any:
    """The type that a text is read as: of a union with None or str, the other one."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    present = [member for member in members if member is not NONE]
    if Any in present or present == [str]:
        return str
    if len(present) == 1:
        return present[0]
    if str not in present:
        raise ConfigurationError(
            f"The field {name} may be {' or '.join(map(_shown, present))}, and a text on the command line can be read "
            "as one type only. Declare one, or one of them and str."
        )
    if name in SEVERAL_WORDS:
        return next(member for member in present if get_origin(member) is list)
    if NONE in members and bool in members:  # a text that looks like a truth value may still be a text
        return str
    passed_over = NONE if NONE in members else str
    return members[0] if members[1] is passed_over else members[1]


def _shown(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) else str(declared)


def _reading(field: Field[Any], hint: Any, declared: Any) -> dict[str, Any]:
    """The keyword arguments of ``add_argument`` that follow from a field's type and default."""
    origin = get_origin(declared) or declared
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if declared is bool:
        return _switch(field.default, is_optional=NONE in get_args(hint))
    if origin is list:
        element = (get_args(declared) or (str,))[0]
        # argparse would read a default that is a text as one element; left out, the dataclass has it anyway.
        kept = SUPPRESS if isinstance(default, str) else default
        return {"type": element, "nargs": "+", **_default_of(kept)}
    choices = _choices(declared)
    if choices:
        texts = {str(choice): choice for choice in choices}
        return {"type": lambda text: texts.get(text, text), "choices": choices, **_default_of(default)}
    return {"type": _dict_of if origin is dict else declared, **_default_of(default)}


def _default_of(default: Any) -> dict[str, Any]:
    return {"required": True} if default is MISSING else {"default": default}


def _choices(declared: Any) -> list[Any]:
    if get_origin(declared) is Literal:
        return list(get_args(declared))
    is_enum = isinstance(declared, type) and issubclass(declared, Enum)
    return [member.value for member in declared] if is_enum else []


def _switch(default: Any, *, is_optional: bool) -> dict[str, Any]:
    if is_optional and default in (None, MISSING):  # unset is a third state: the option needs its value
        return {"type": _truth}
    return {"type": _truth, "nargs": "?", "const": True, "default": default is not MISSING and default}


def _truth(text: str | bool) -> bool:
    word = str(text).lower()
    if word not in WORDS:
        raise ArgumentTypeError(f"{text!r} is no truth value; write one of {', '.join(WORDS)}")
    return WORDS[word]


def _dict_of(text: str) -> dict[str, Any]:
    try:
        return read_dict(text)
    except UnfitError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from error


def _files_beside_the_script(args_filename: str | None, look_for_args_file: bool) -> list[Path]:
    script = sys.argv[0] if sys.argv else ""
    if not args_filename and not (look_for_args_file and script):
        return []
    file = Path(args_filename) if args_filename else Path(script).with_suffix(".args")
    return [file] if file.is_file() else []


def _files_on_the_command_line(flag: str | None, words: list[str]) -> tuple[list[Path], list[str]]:
    """The files named by the flag, and the words without them."""
    if flag is None:
        return [], words
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*_spellings(flag), action="append", default=[], dest="files")
    found, rest = parser.parse_known_args(words)
    for name in found.files:
        if not Path(name).is_file():
            raise ConfigurationError(f"{flag} {name}: there is no such file.")
    return [Path(name) for name in found.files], rest


def _spellings(option: str) -> list[str]:
    return list(dict.fromkeys([option, option.replace("_", "-")]))


def _unknown(names: list[str], known: list[str]) -> str:
    """Names that nobody knows, each with the closest one there is: "'lr_rate' (did you mean 'learning_rate'?)"."""
    close = {name: get_close_matches(name.partition("=")[0], known, n=1) for name in names}
    shown = [f"{name!r} (did you mean {close[name][0]!r}?)" if close[name] else repr(name) for name in names]
    return f"unknown arguments: {', '.join(shown)}"
