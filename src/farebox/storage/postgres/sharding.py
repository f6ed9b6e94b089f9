"""The ledger's function on Citus: one copy for each bucket, using the shards of that bucket. See citus.sql."""

import re
from importlib import resources

from farebox.storage.postgres.connecting import Session

ENTRY = "CREATE FUNCTION ledger_batch("
_CALLED = re.compile(r"\bledger_\w+(?=\()")
_BRANCH = re.compile(r"-- (WHEN .*\n)")
_OF_TABLE = re.compile(r"\b(FROM|INTO) (\w+)\b")
_SHARDS = (
    "SELECT s.shardminvalue, c.relname::text, s.shardid FROM pg_dist_shard s JOIN pg_class c ON c.oid = s.logicalrelid "
    "WHERE c.relnamespace = current_schema()::regnamespace AND s.shardminvalue IS NOT NULL ORDER BY s.shardid"
)


async def shards_of(session: Session) -> list[dict[str, int]]:
    """The colocated shards of each bucket: name of the table → number of its shard."""
    together: dict[str, dict[str, int]] = {}
    for lowest, table, shard in await session.fetch(_SHARDS):
        together.setdefault(lowest, {})[table] = shard
    return [shards for shards in together.values() if "balances" in shards]


def functions_of(definition: str, schema: str, buckets: list[dict[str, int]]) -> list[str]:
    """The definitions that replace that of `ledger_batch` in functions.sql: one for each bucket, and the one that
    callers call, which selects among them."""
    parameters = definition.removeprefix(ENTRY).partition(") RETURNS")[0]
    names = [words.split()[0] for words in parameters.split(",")]
    entry = resources.files("farebox.storage.postgres").joinpath("citus.sql").read_text()
    entry = _BRANCH.sub(lambda found: "".join(found[1].replace(":shards", str(b["balances"])) for b in buckets), entry)
    for key, value in (("schema", schema), ("parameters", parameters), ("names", ", ".join(names))):
        entry = re.sub(rf"(?<!:):{key}\b", value.replace("\\", r"\\"), entry)
    return [*(_on_shards(definition, schema, shards) for shards in buckets), entry[entry.index("CREATE FUNCTION") :]]


def _on_shards(definition: str, schema: str, shards: dict[str, int]) -> str:
    def shard(found: re.Match[str]) -> str:
        number = shards.get(found[2])
        return found[0] if number is None else f"{found[1]} {schema}.{found[2]}_{number}"

    body = _CALLED.sub(rf"{schema}.\g<0>", _OF_TABLE.sub(shard, definition.removeprefix(ENTRY)))
    return f"CREATE FUNCTION {schema}.ledger_batch_{shards['balances']}({body}"
