#!/bin/bash
# stripe 16.1.0 with httpx 0.28.1 (PyPI): the asynchronous client cannot be given a proxy.
#
# Guess: HTTPXClient(proxy="http://…") sends its requests through the proxy, as RequestsClient(proxy=…) does: `proxy` is a
#        parameter of the SDK's own base class, and `stripe.proxy` a documented setting.
# Seen:  no request leaves the process. The SDK hands `proxies` to httpx's request(), which knows no such argument, and
#        tells the TypeError as an APIConnectionError: "Unexpected error communicating with Stripe", which callers take
#        for a network that is down, and try again.
# A program that pays through a proxy writes a small stripe.HTTPClient of its own around httpx.AsyncClient(proxy=…).
#
# Installs both, and requests to compare, into a temporary folder; what is called is a proxy on this machine that refuses.
# Exits non-zero where the behaviour has changed.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q "stripe==16.1.0" "httpx==0.28.1" "anyio==4.16.0" requests
"$tmp/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

import httpx
import stripe


async def outcome(name, ask):
    """What the SDK says, and what the proxy has seen of it."""
    heads = []

    async def refuse(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    client = stripe.StripeClient("sk_test_1", http_client=getattr(stripe, name)(proxy=url), max_network_retries=0)
    try:
        await ask(client)
    except stripe.APIConnectionError as error:
        return type(error.__cause__).__name__, bool(heads)
    return "an answer", bool(heads)


async def main():
    print(f"stripe {stripe.VERSION}, httpx {httpx.__version__}; a customer is looked up through a proxy that answers 407")
    seen = {
        "RequestsClient": await outcome(
            "RequestsClient", lambda client: asyncio.to_thread(client.v1.customers.retrieve, "cus_1")
        ),
        "HTTPXClient": await outcome("HTTPXClient", lambda client: client.v1.customers.retrieve_async("cus_1")),
    }
    for name, (cause, asked) in seen.items():
        print(f"  {name:<15} guess: the proxy is asked    seen: {cause}, the proxy was {'' if asked else 'not '}asked")
    return seen == {"RequestsClient": ("ProxyError", True), "HTTPXClient": ("TypeError", False)}


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
