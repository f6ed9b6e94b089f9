"""Who may read the metrics, according to the settings. Separate from the page itself: the process that starts the
gateway processes checks this too, without loading the code that answers calls.
"""

import re
from ipaddress import ip_address

from farebox.quoting import quoted
from farebox.settings import Settings, SettingsError

_is_token = re.compile(r"[!-~]{16,512}").fullmatch


def check_settings(settings: Settings) -> None:
    """Raises SettingsError if the metrics would be open to everyone on the network, the token is malformed, or the
    port is the main one."""
    token, host = settings.metrics_token, settings.metrics_host
    if token and not _is_token(token):
        raise SettingsError(
            "FAREBOX_METRICS_TOKEN must be 16 to 512 characters without spaces: `openssl rand -hex 24` generates one"
        )
    if settings.metrics_port and not token and not is_loopback(host):
        raise SettingsError(
            f"FAREBOX_METRICS_HOST is {quoted(host)}, which other machines can reach: set FAREBOX_METRICS_TOKEN "
            "too, or keep 127.0.0.1"
        )
    if settings.metrics_port and settings.metrics_port == settings.port:
        raise SettingsError("FAREBOX_METRICS_PORT is FAREBOX_PORT: choose a different port for the metrics")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable only from this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
