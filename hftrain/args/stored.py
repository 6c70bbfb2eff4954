"""The arguments as dicts, JSON and text, without secrets."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from hftrain.args.fields import is_secret, masked, plain, shown

SCALARS = (bool, int, float, str)


class StoredForms:
    """How arguments are written down; ``train_batch_size`` and ``eval_batch_size`` are computed elsewhere."""

    def to_dict(self) -> dict[str, Any]:
        """Every argument in JSON's words; a secret is replaced by its name, such as ``<HUB_TOKEN>``."""
        names = [field.name for field in fields(self) if field.init]  # type: ignore[arg-type]
        given = {name: getattr(self, name) for name in names}
        return {name: masked(name) if is_secret(name, value) else plain(value) for name, value in given.items()}

    def to_json_string(self) -> str:
        """``to_dict`` as JSON, indented by two; what JSON has no word for is written as its text."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """``to_dict`` and the batch sizes of this process as scalars and texts only, for a tracker's parameters."""
        document = self.to_dict()
        document |= {name: getattr(self, name) for name in ("train_batch_size", "eval_batch_size")}
        return {name: value if type(value) in SCALARS else str(value) for name, value in document.items()}

    def __repr__(self) -> str:
        names = sorted(field.name for field in fields(self) if field.init)  # type: ignore[arg-type]
        lines = "".join(f"\n    {shown(name, plain(getattr(self, name)))}," for name in names)
        return f"{type(self).__name__}({lines}\n)"
