"""Statuses: int codes with a name, and prose that says the cause and what to do next."""

import enum
import inspect
import operator
from typing import Any, Self, SupportsIndex

import numpy as np


class FitError(RuntimeError):
    """What was asked for has no sound answer; raised by the `check()` of what has a status, never inside jit.

    Example:
        >>> import jax, jem
        >>> x = jem.datasets.old_faithful()
        >>> model = jem.Mixture(jem.Gaussian(), 2)
        >>> try:
        ...     fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, max_steps=1).check()
        ... except jem.FitError as error:
        ...     print(str(error)[:9])
        MAX_STEPS
    """


class Coded(enum.IntEnum):
    """A status; members are written `NAME = code, prose`."""

    prose: str  # the cause, and what to do next

    def __new__(cls, code: int, prose: str) -> Self:
        """A member whose value is the code."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.prose = prose
        return member

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        """The member of a code that is an array (), which Python 3.12 and later do not look up by themselves."""
        code = operator.index(value) if isinstance(value, SupportsIndex) else None
        return None if code is None else next((member for member in cls if member.value == code), None)

    def __init_subclass__(cls) -> None:
        """Adds what the members mean to the docstring."""
        super().__init_subclass__()
        meanings = "".join(f"\n    {member.name}: {member.prose}." for member in cls)
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nAttributes:{meanings}\n"

    @classmethod
    def check(cls, found: Any, sound: Self, where: str = "") -> None:
        """Raises `FitError` with the prose of every code found, one or more, that is not the sound one; and says where."""
        codes = np.unique(np.asarray(found))
        lines = [f"{code.name}: {code.prose}" for code in map(cls, codes.tolist()) if code != sound]
        if lines:
            raise FitError("\n".join([*lines, *([where] if where else [])]))
