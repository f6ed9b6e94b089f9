"""Which targets use which proxy: the usual variables, interpreted as by curl and Go's net/http."""

import pytest

from farebox.proxies import Proxies
from farebox.settings import SettingsError, proxies


@pytest.mark.parametrize(
    ("exempt", "host", "port", "through"),
    [
        ("", "a.example", 443, True),
        ("a.example", "a.example", 443, False),
        ("A.Example", "a.EXAMPLE", 443, False),
        ("a.example.", "a.example", 443, False),
        ("a.example", "a.example.", 443, False),
        ("example", "a.example", 443, False),
        (".example", "a.example", 443, False),
        (".a.example", "a.example", 443, False),
        ("*.example", "a.example", 443, False),
        ("xample", "a.example", 443, True),
        ("b.example", "a.example", 443, True),
        ("a.example.org", "a.example", 443, True),
        ("b.example , a.example", "a.example", 443, False),
        ("b.example a.example", "a.example", 443, False),
        (",,a.example,", "a.example", 443, False),
        (".", "a.example", 443, True),
        ("*", "a.example", 443, False),
        ("*", "192.0.2.1", 443, False),
        ("a.example:443", "a.example", 443, False),
        ("a.example:8443", "a.example", 443, True),
        ("*.example:8443", "a.example", 8443, False),
        ("192.0.2.1", "192.0.2.1", 443, False),
        ("192.0.2.1:443", "192.0.2.1", 443, False),
        ("192.0.2.1:444", "192.0.2.1", 443, True),
        ("192.0.2.0/24", "192.0.2.1", 443, False),
        ("192.0.2.7/24", "192.0.2.1", 443, False),
        ("192.0.3.0/24", "192.0.2.1", 443, True),
        ("2.1", "192.0.2.1", 443, True),
        ("2001:db8::/32", "2001:db8::1", 443, False),
        ("2001:db8::/32", "192.0.2.1", 443, True),
        ("2001:db8::1", "2001:db8:0::1", 443, False),
        ("[2001:db8::1]", "2001:db8::1", 443, False),
        ("[2001:db8::1]:443", "2001:db8::1", 443, False),
        ("[2001:db8::1]:444", "2001:db8::1", 443, True),
        ("", "localhost", 80, False),
        ("", "Demo.LocalHost.", 80, False),
        ("", "127.0.0.1", 80, False),
        ("", "127.9.8.7", 80, False),
        ("", "::1", 80, False),
        ("", "::ffff:127.0.0.1", 80, False),
        ("", "127.0.0.1.example", 80, True),
        ("", "localhost.example", 80, True),
    ],
)
def test_targets_reached_without_a_proxy(exempt: str, host: str, port: int, through: bool) -> None:
    found = proxies({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": exempt})
    assert (found.for_origin("https", host, port) is not None) is through
    assert found.for_origin("http", host, port) is None


@pytest.mark.parametrize(
    ("environment", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://p:1", None),
        ({"HTTPS_PROXY": "http://p:1"}, None, "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1", "http://p:1"),
        ({"ALL_PROXY": "http://a:1", "http_proxy": "http://h:1"}, "http://h:1", "http://a:1"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, None, "http://low:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://up:1"}, None, "http://up:1"),
        ({"HTTPS_PROXY": "proxy:3128"}, None, "http://proxy:3128"),
        ({"HTTPS_PROXY": "https://me:word@proxy"}, None, "https://me:word@proxy"),
        ({"HTTPS_PROXY": " "}, None, None),
        (
            {"http_proxy": "http://h:1", "https_proxy": "http://s:1", "all_proxy": "socks5://a"},
            "http://h:1",
            "http://s:1",
        ),
    ],
)
def test_which_proxy_is_used_for_which_target(environment: dict[str, str], http: str | None, https: str | None) -> None:
    found = proxies(environment)
    assert found.for_origin("http", "a.example", 80) == http
    assert found.for_origin("https", "a.example", 443) == https


def test_without_variables_there_is_none() -> None:
    assert proxies({}) == Proxies()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "socks5://me:word@proxy:1080"),
        ("https_proxy", "socks5h://me:word@proxy:1080"),
        ("ALL_PROXY", "socks://me:word@proxy:1080"),
        ("HTTP_PROXY", "ftp://me:word@proxy"),
        ("HTTP_PROXY", "http://me:word@"),
        ("HTTP_PROXY", "http://me:word@proxy:port"),
        ("HTTP_PROXY", "http://me:word@proxy:0"),
        ("HTTP_PROXY", "http://me:word@[::1"),
        ("HTTP_PROXY", "http://me:word@pro\nxy"),
        ("HTTP_PROXY", "http://me:word@pröxy"),
    ],
)
def test_an_invalid_proxy_url_is_refused_by_variable_without_its_password(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        proxies({variable: value})
    assert str(raised.value).startswith(variable)
    assert "http://" in str(raised.value)
    assert "word" not in str(raised.value)
