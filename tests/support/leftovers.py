"""What the whole fake account holds, read from moto's own stores: services that nobody thought of are counted too."""

import re
import sys
from collections.abc import Mapping, Sized

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.base_backend import BackendDict


def held() -> dict[str, int]:
    """`service region store` → how many things are in it, of every store of every service in use; empty ones left out."""
    modules = [module for name, module in sorted(sys.modules.items()) if re.fullmatch(r"moto\.\w+\.models", name)]
    values = [value for module in modules for value in vars(module).values() if isinstance(value, BackendDict)]
    found = {}
    for service in {value.service_name: value for value in values}.values():
        for region, backend in dict(service.get(DEFAULT_ACCOUNT_ID) or {}).items():
            for store, content in _stores(backend):
                if count := _things(content):
                    found[f"{service.service_name} {region} {store}"] = count
    return found


def _stores(backend):
    """Also those of a storage object, as Lambda has one."""
    for name, content in vars(backend).items():
        if type(content).__module__.startswith("moto.") and name.startswith("_"):
            yield from vars(content).items()
        else:
            yield name, content


def _things(content) -> int:
    """Of a store; a store of stores is empty where they are."""
    if isinstance(content, Mapping):
        return sum(max(_things(value), not isinstance(value, Sized)) for value in content.values())
    return len(content) if isinstance(content, list | set | tuple) else 0


def more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Stores that hold more than before, and how much more."""
    return {store: count - before.get(store, 0) for store, count in after.items() if count > before.get(store, 0)}
