"""Compiled routines of scipy without the packages around them.

To import these takes a tenth of a second each, a third of the start of a job, for libraries of
other arrays, special functions and documentation that play no part here. The modules are private to
scipy: who uses one checks that it does what is known of it, and has the public function at hand.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from threading import Lock
from typing import Any

_LOADING = Lock()


def compiled_module(name: str) -> Any | None:
    """Scipy's compiled module of this full name; None where there is none.

    If scipy itself is imported later, it takes the module that is there.
    """
    with _LOADING:  # a module is to be seen before it is complete
        if name not in sys.modules:
            package = find_spec("scipy")
            homes = package.submodule_search_locations if package is not None else None
            inside = name.split(".")[1:-1]
            found = PathFinder.find_spec(name, ["/".join((h, *inside)) for h in homes or ()])
            if found is None or found.loader is None:
                return None
            try:
                module = module_from_spec(found)
                found.loader.exec_module(module)
            except ImportError:
                return None
            sys.modules.setdefault(name, module)
        return sys.modules[name]
