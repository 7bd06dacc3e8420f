"""What mkdocstrings is told of jem's source, which it reads without running it: examples, fields of nodes, constants."""

import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

import griffe


class House(griffe.Extension):
    """The house's ways in griffe's words."""

    def on_instance(self, *, obj, **kwargs):
        """One example is some; what is said of a constant stands behind it."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
        elif obj.is_attribute and obj.parent.is_module and isinstance(obj.filepath, Path):
            said = re.search(r"  # (.+)$", obj.filepath.read_text().splitlines()[obj.lineno - 1])
            obj.docstring = griffe.Docstring(f"{said[1][0].upper()}{said[1][1:]}.", parent=obj) if said else None

    def on_class_members(self, *, cls, **kwargs):
        """`@node` writes `__init__` from the fields, and statuses write what their codes mean."""
        if any(str(base) == "Coded" for base in cls.bases):
            said = inspect.getdoc(resolve_name(f"{cls.module.path}:{cls.name}"))
            cls.docstring = griffe.Docstring(said, parent=cls)
        if "__init__" in cls.members or not any(str(d.value) in ("node", "author.node") for d in cls.decorators):
            return
        kinds = {kind.name: griffe.ParameterKind(kind.description) for kind in inspect._ParameterKind}
        given = inspect.signature(resolve_name(f"{cls.module.path}:{cls.name}")).parameters.values()
        fields = [
            griffe.Parameter(p.name, kind=kinds[p.kind.name], default=None if p.default is p.empty else repr(p.default))
            for p in given
        ]
        me = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(me, *fields)))
