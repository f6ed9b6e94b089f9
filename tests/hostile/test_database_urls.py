"""FAREBOX_DATABASE_URL: libpq's parameters have libpq's meaning or are refused by name; URLs of managed hosts work; and
no password is ever shown."""

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args

from farebox.settings import SettingsError, load
from farebox.storage.postgres.connecting import connect
from farebox.storage.postgres.url import ConnectionTarget, parse
from farebox.storage.sql import DatabaseUnavailable
from tests import engines, processes
from tests.support import free_port

on_postgres = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="needs PostgreSQL")


def reported(url: str) -> tuple[list[Any], Any]:
    """The address to which asyncpg would connect, and its options."""
    target = parse(url)
    addresses: list[Any] = []
    parameters = None
    for host, port in target.hosts:
        given: dict[str, Any] = dict.fromkeys(
            ("dsn", "user", "password", "passfile", "database", "ssl", "service", "servicefile", "direct_tls",
             "krbsrvname", "gsslib")
        )  # fmt: skip
        given |= target.arguments
        found, parameters = _parse_connect_dsn_and_args(
            **given, host=host, port=port, server_settings=dict(target.startup), target_session_attrs="primary"
        )
        addresses += found
    return addresses, parameters


def refusal(url: str) -> str:
    with pytest.raises(SettingsError, match="FAREBOX_DATABASE_URL cannot be used") as refused:
        parse(url)
    return str(refused.value)


# --- URLs of managed hosts, with invented names -----------------------------------------------------------------------

HOSTED = {
    "neon, without what cannot be had": (
        "postgresql://owner:npg_S3cret@ep-cool-fog-12345.eu-central-1.aws.neon.tech/neondb?sslmode=require",
        ("ep-cool-fog-12345.eu-central-1.aws.neon.tech", 5432), "owner", "npg_S3cret", "neondb",
    ),
    "supabase, direct": (
        "postgresql://postgres:p%40ss%2Fw%3Fo%23rd@db.abcdefgh.supabase.co:5432/postgres",
        ("db.abcdefgh.supabase.co", 5432), "postgres", "p@ss/w?o#rd", "postgres",
    ),
    "supabase, pooler in session mode": (
        "postgres://postgres.abcdefgh:S3cret@aws-0-eu-west-1.pooler.supabase.com:5432/postgres",
        ("aws-0-eu-west-1.pooler.supabase.com", 5432), "postgres.abcdefgh", "S3cret", "postgres",
    ),
    "aws rds": (
        "postgresql://farebox:S3cret@mydb.c1abc2def3.eu-west-1.rds.amazonaws.com:5432/farebox"
        "?sslmode=verify-full&sslrootcert=system&connect_timeout=10&keepalives=1&keepalives_idle=30",
        ("mydb.c1abc2def3.eu-west-1.rds.amazonaws.com", 5432), "farebox", "S3cret", "farebox",
    ),
    "google cloud sql, socket": (
        "postgresql://farebox:S3cret@/farebox?host=/cloudsql/my-project:europe-west1:my-instance",
        "/cloudsql/my-project:europe-west1:my-instance/.s.PGSQL.5432", "farebox", "S3cret", "farebox",
    ),
    "azure flexible server": (
        "postgres://farebox%40mydb:S3cret@mydb.postgres.database.azure.com/postgres?sslmode=require",
        ("mydb.postgres.database.azure.com", 5432), "farebox@mydb", "S3cret", "postgres",
    ),
    "heroku": (
        "postgres://uabcdefghijklm:p1234567890abcdef@ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:5432/d9abcdefghijkl",
        ("ec2-1-2-3-4.eu-west-1.compute.amazonaws.com", 5432), "uabcdefghijklm", "p1234567890abcdef", "d9abcdefghijkl",
    ),
    "render": (
        "postgresql://farebox_user:S3cret@dpg-abc123def-a.frankfurt-postgres.render.com/farebox",
        ("dpg-abc123def-a.frankfurt-postgres.render.com", 5432), "farebox_user", "S3cret", "farebox",
    ),
    "digitalocean": (
        "postgresql://doadmin:AVNS_x-y_z@db-1-do-user-1-0.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
        ("db-1-do-user-1-0.b.db.ondigitalocean.com", 25060), "doadmin", "AVNS_x-y_z", "defaultdb",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTED)
def test_the_url_of_a_managed_host_is_understood(name: str) -> None:
    url, address, user, password, database = HOSTED[name]
    addresses, parameters = reported(url)
    assert (addresses, parameters.user, parameters.password, parameters.database) == (
        [address], user, password, database,
    )  # fmt: skip
    assert parameters.server_settings == {}, "no libpq parameter is sent to the server as a setting"
    assert password not in load({}, database_url=url).database_shown
    assert password not in repr(parse(url))


def test_neons_channel_binding_is_refused_with_a_remedy() -> None:
    """The driver has no channel binding. Connecting without it would be less secure than requested."""
    url = HOSTED["neon, without what cannot be had"][0] + "&channel_binding=require"
    assert "channel_binding" in refusal(url)
    assert "verify-full" in refusal(url)


# --- one by one -------------------------------------------------------------------------------------------------------


def of(query: str) -> ConnectionTarget:
    return parse(f"postgresql://u:S3cret@h/db?{query}")


@pytest.mark.parametrize(
    "query",
    [
        "channel_binding=require", "gssencmode=require", "service=x", "hostaddr=10.0.0.1", "replication=database",
        "target_session_attrs=standby", "target_session_attrs=prefer-standby", "sslmode=on", "client_encoding=LATIN1",
        "require_auth=scram-sha-256", "load_balance_hosts=random", "sslcompression=1", "connect_timeout=soon",
        "keepalives_idle=1s", "sslcrldir=/x", "passwd=S3cret", "pgbouncer=true", "schema=farebox", "ssl=false",
        "statement_timeout=1s",
    ],
)  # fmt: skip
def test_an_unsupported_url_parameter_is_refused_by_name(query: str) -> None:
    message = refusal(f"postgresql://u:S3cret@h/db?{query}")
    assert query.partition("=")[0] in message
    assert "S3cret" not in message


@pytest.mark.parametrize(
    "query",
    [
        "", "channel_binding=prefer", "channel_binding=disable", "gssencmode=prefer", "target_session_attrs=read-write",
        "target_session_attrs=primary", "target_session_attrs=any", "sslmode=disable", "client_encoding=UTF8",
        "connect_timeout=10", "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3",
        "tcp_user_timeout=10000", "load_balance_hosts=disable", "connect_timeout=", "sslsni=1", "krbsrvname=postgres",
        "application_name=mine", "fallback=".replace("fallback=", "ssl=true"),
    ],
)  # fmt: skip
def test_client_side_parameters_are_not_sent_as_server_settings(query: str) -> None:
    _, parameters = reported(f"postgresql://u:S3cret@h/db?{query}")
    assert parameters.server_settings == {}


def test_connect_timeout_is_in_seconds_and_optional() -> None:
    assert [of(f"connect_timeout={text}").connect_seconds for text in ("3", "0", "-1", "")] == [3, None, None, None]


def test_keepalives_are_options_of_the_socket() -> None:
    assert of("keepalives_idle=7&tcp_user_timeout=900").socket_options == (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 900),
    )
    assert of("keepalives=0&keepalives_idle=7").socket_options == ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0),)


def test_system_certificates_are_verified_including_the_host_name() -> None:
    for query in ("sslrootcert=system", "sslrootcert=system&sslmode=verify-full"):
        context = of(query).arguments["ssl"]
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    for mode in ("disable", "require", "verify-ca"):
        assert "verify-full" in refusal(f"postgresql://h/db?sslrootcert=system&sslmode={mode}")


def test_each_of_several_hosts_has_its_port() -> None:
    assert parse("postgresql://u:p,q@a:1,b,[::1]:3/db").hosts == (("a", 1), ("b", None), ("::1", 3))
    assert parse("postgresql:///db?host=a,b&port=1,2").hosts == (("a", 1), ("b", 2))
    assert parse("postgresql:///db?host=a,b&port=1").hosts == (("a", 1), ("b", 1))
    assert "2 hosts and 3 ports" in refusal("postgresql:///db?host=a,b&port=1,2,3")
    assert parse("postgresql://a:1/db?host=b").hosts == (("b", 1),), "one parameter does not change the other"
    assert parse("postgresql://a:1/db?host=b,c").hosts == (("b", 1), ("c", 1))
    assert parse("postgresql://a:1,b:2/db?port=3").hosts == (("a", 3), ("b", 3))
    assert parse("postgresql://a,b:2/db").hosts == (("a", None), ("b", 2))
    assert "1 hosts and 2 ports" in refusal("postgresql://a:1,b:2/db?host=c")


@pytest.mark.parametrize("query", ["sslcert=/no/x", "sslkey=/no/x", "sslmode=verify-ca&sslrootcert=/no/x"])
def test_a_missing_file_is_reported_with_its_parameter(query: str) -> None:
    name = query.rpartition("&")[2].partition("=")[0]
    assert f"the file that {name} names cannot be read" in refusal(f"postgresql://h/db?{query}")
    assert parse("postgresql://h/db?sslmode=disable&sslcert=/no/x").arguments
    assert parse("postgresql://h/db?sslrootcert=/no/x").arguments, "it is not used for verification"


def test_a_socket_is_a_path_written_either_way() -> None:
    assert parse("postgresql://%2Fvar%2Frun%2Fpostgresql/db").hosts == (("/var/run/postgresql", None),)
    assert parse("postgresql:///db?host=/var/run/postgresql").hosts == (("/var/run/postgresql", None),)


def test_a_plus_stands_for_itself_as_in_libpq() -> None:
    assert parse("postgresql:///db?user=u&password=a+b").arguments["password"] == "a+b"


def test_a_question_mark_belongs_to_a_password_as_in_libpq() -> None:
    assert parse("postgresql://u:a?b@h/db").arguments["password"] == "a?b"


SPOILT = ("u:S3/cret@h/db", "u:S3@cret@h/db", "u:S3%cret@h/db", "u:S3cret@h:54x32/db", "u@h/db?password=S3cret&cret",
          "u:S3#cret/x@h/db")  # fmt: skip


@pytest.mark.parametrize("rest", SPOILT)
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(rest: str) -> None:
    message = refusal(f"postgresql://{rest}")
    assert not any(part in message for part in ("S3", "cret"))
    assert not any(part in load({}, database_url=f"postgresql://{rest}").database_shown for part in ("S3", "cret"))


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_the_start_reports_what_cannot_be_used_without_the_password(command: str, tmp_path: Path) -> None:
    url = "postgresql://u:S3cret@127.0.0.1:1/db?channel_binding=require"
    environment = os.environ | {"FAREBOX_DATABASE_URL": url, "FAREBOX_PORT": str(free_port())}
    ended = processes.run(["--data-dir", str(tmp_path), command], env=environment)
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "channel_binding can be disable, prefer only" in said
    assert "S3cret" not in said
    assert "Traceback" not in said


# --- with a server ----------------------------------------------------------------------------------------------------


@on_postgres
async def test_a_real_connection_has_the_options_of_the_url(postgres_url: str) -> None:
    more = (
        "?connect_timeout=10&keepalives_idle=7&keepalives_interval=3&keepalives_count=2&tcp_user_timeout=9000"
        "&application_name=mine&target_session_attrs=read-write&gssencmode=prefer&channel_binding=prefer&sslmode=prefer"
        "&options=-c%20search_path=apart%20-c%20work_mem=5MB"
    )
    session = await connect(postgres_url.partition("?")[0] + more, timeout=10, name="farebox lane")
    way = session._transport.get_extra_info("socket")
    assert way.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert way.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
    assert way.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 3
    assert way.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
    assert way.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
    requested = [await session.fetchval(f"SHOW {name}") for name in ("application_name", "search_path", "work_mem")]
    assert requested == ["farebox lane mine", "apart", "5MB"]
    session.terminate()


@on_postgres
@pytest.mark.parametrize("failure", [TimeoutError, asyncio.CancelledError], ids=["it takes too long", "it is given up"])
@pytest.mark.parametrize("step", ["execute", "set_type_codec"])
async def test_an_unfinished_connection_is_closed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, step: str, failure: type[BaseException]
) -> None:
    opened: list[asyncpg.Connection] = []
    here = asyncio.get_running_loop()

    async def fail(session: asyncpg.Connection, *_: object, **__: object) -> None:
        if asyncio.get_running_loop() is here:  # servers of other tests may still be running
            opened.append(session)
        raise failure

    monkeypatch.setattr(asyncpg.Connection, step, fail)
    with pytest.raises((DatabaseUnavailable, asyncio.CancelledError)):
        await connect(postgres_url, timeout=10)
    assert [session.is_closed() for session in opened] == [True]
