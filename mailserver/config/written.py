"""Values of settings as a person writes them in TOML: the way back from `values` and `outgoing_values`.

Not here: reading them.
"""

from __future__ import annotations

from typing import Any

from mailserver.config.outgoing_values import ANYBODY, Allowed, Hosts, Rate, Vouched, Waits
from mailserver.config.values import Duration, Size
from mailserver.delivery.relay import Host

_SIZES = (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))
_SPANS = (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_RATES = (("s", 1), ("m", 60), ("h", 3600))


def written(value: object) -> Any:
    """Texts, numbers, truths, lists and dicts that mean `value`."""
    if isinstance(value, Size):
        return _size(value)
    if isinstance(value, Rate):
        return _rate(value)
    if isinstance(value, Duration):
        return _duration(value)
    if isinstance(value, Waits):
        return [_duration(wait) for wait in value]
    if isinstance(value, Hosts):
        return [_host(host) for host in value]
    if isinstance(value, Allowed):
        return {user: list(senders) for user, senders in value}
    if isinstance(value, Vouched):
        return {str(account): str(user) if user else ANYBODY for account, user in value}
    if isinstance(value, tuple):  # Networks, Senders, Domains
        return [str(one) for one in value]
    return str(value) if isinstance(value, str) else value


def _size(octets: int) -> str | int:
    unit = next((one for one in _SIZES if octets and octets % one[1] == 0), None)
    return f"{octets // unit[1]}{unit[0]}" if unit else octets


def _duration(seconds: float) -> str:
    if seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    name, span = next((one for one in _SPANS if seconds and seconds % one[1] == 0), ("s", 1))
    return f"{int(seconds) // span}{name}"


def _rate(per_second: float) -> str | int:
    for name, span in _RATES:
        count = round(per_second * span)
        if count and Rate(f"{count}/{name}") == per_second:
            return f"{count}/{name}"
    return 0


def _host(host: Host) -> str:
    if not host.port:
        return f"unix:{host.name}"
    return f"[{host.name}]:{host.port}" if ":" in host.name else f"{host.name}:{host.port}"
