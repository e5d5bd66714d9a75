"""Lets the reference show the examples of docstrings as code."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Calls `Example:` what griffe knows as `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section; all objects of the package come by once."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
