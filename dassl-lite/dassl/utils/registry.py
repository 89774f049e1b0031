"""Maps names to classes, so that a config file can name the class to use."""

from .errors import unknown_name


class Registry:
    """A named table of classes or functions.

    Use `@REGISTRY.register()` above a class, or `REGISTRY.register(obj)`.
    """

    def __init__(self, name):
        self._name = name
        self._objects = {}

    def register(self, obj=None, force=False):
        """Add `obj` under its `__name__`; returns a decorator if `obj` is None."""
        if obj is None:
            return lambda target: self.register(target, force)
        name = obj.__name__
        if name in self._objects and not force:
            raise KeyError(f"'{name}' is already registered in {self._name}")
        self._objects[name] = obj
        return obj

    def get(self, name):
        """Return the object registered under `name`."""
        if name not in self._objects:
            raise unknown_name(self._name.lower(), name, self._objects)
        return self._objects[name]

    def build(self, name, cfg, **kwargs):
        """Call the class or function registered under `name` with `cfg`; return the result."""
        make = self.get(name)
        if cfg.VERBOSE:
            print(f"Loading {self._name.lower()}: {name}")
        return make(cfg, **kwargs)

    def registered_names(self):
        """Return the names in the order of their registration."""
        return list(self._objects)
