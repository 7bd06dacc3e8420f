"""What a method does is what its contract says, where it says nothing of its own."""


class Documented:
    """A contract: methods and properties of a subclass that have no docstring take that of the class they are from."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, property)) and not member.__doc__:
                docs = (vars(base)[name].__doc__ for base in cls.__mro__[1:] if name in vars(base))
                member.__doc__ = next(filter(None, docs), None)
