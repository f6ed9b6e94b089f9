"""The store of model aliases: an account's own names for models, for all of its gateways or for one.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass

from farebox.storage.own_rows import OwnRows


@dataclass(frozen=True, slots=True)
class ModelAlias:
    """An alias. `gateway_id` is empty if the alias is for all gateways of the account."""

    account_id: str
    gateway_id: str
    alias: str
    targets: str
    """JSON array of `provider/model`, in the order in which they are tried."""
    created_at: int
    modified_at: int


_COLUMNS = "account_id, gateway_id, alias, targets, created_at, modified_at"

ALIASES = OwnRows("model_aliases", _COLUMNS, ("gateway_id", "alias"), "alias", ModelAlias, served=True)
"""The aliases of a gateway, or with an empty `gateway_id` those of the account itself, by name."""
