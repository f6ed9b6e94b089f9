"""How programs call a gateway: the base URL for each SDK, and a first call with it."""

import json
from dataclasses import dataclass

from farebox.gateway import DEFAULT_GATEWAY, gateway_path

KEY = "TOKEN"
"""The environment variable that the snippets read the access token from."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A first call with one SDK, as it is pasted into a program."""

    name: str
    url: str
    text: str


def snippets(base_url: str, account_id: str, gateway_id: str, model: str) -> list[Snippet]:
    """A snippet for each SDK; `model`: a `provider/model` that can be called."""
    root = base_url + gateway_path(account_id, gateway_id)
    compat = f"{root}/compat"
    return [
        Snippet("curl", compat, _curl(compat, model, f"${KEY}")),
        Snippet("OpenAI, Python", compat, _openai_python(compat, model)),
        Snippet("OpenAI, TypeScript", compat, _openai_typescript(compat, model)),
        Snippet("Anthropic, Python", f"{root}/anthropic", _anthropic_python(f"{root}/anthropic")),
        Snippet("Anthropic, TypeScript", f"{root}/anthropic", _anthropic_typescript(f"{root}/anthropic")),
        Snippet("Google, Python", f"{root}/google-ai-studio", _google_python(f"{root}/google-ai-studio")),
        Snippet("Google, TypeScript", f"{root}/google-ai-studio", _google_typescript(f"{root}/google-ai-studio")),
        Snippet("Cloudflare, Python", f"{base_url}/client/v4", _cloudflare(f"{base_url}/client/v4", account_id)),
    ]


def example_model(*, demo: bool) -> str:
    """A `provider/model` for a first call. `demo`: the demo provider runs here."""
    return "demo/demo-1" if demo else "openai/gpt-5-mini"


def first_call(base_url: str, account_id: str, model: str, token: str = f"${KEY}") -> str:
    """A call through the default gateway with curl. `token`: an access token’s secret, or a variable that contains
    it."""
    return _curl(f"{base_url}{gateway_path(account_id, DEFAULT_GATEWAY)}/compat", model, token)


def _curl(url: str, model: str, token: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    return (
        f'curl {url}/chat/completions \\\n  -H "Authorization: Bearer {token}" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    )


def _openai_python(url: str, model: str) -> str:
    return f"""import os

from openai import OpenAI

client = OpenAI(base_url="{url}", api_key=os.environ["{KEY}"])
answer = client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Hello!"}}]
)
print(answer.choices[0].message.content)"""


def _openai_typescript(url: str, model: str) -> str:
    return f"""import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{url}", apiKey: process.env.{KEY} }});
const answer = await client.chat.completions.create({{
  model: "{model}", messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(answer.choices[0].message.content);"""


def _anthropic_python(url: str) -> str:
    return f"""import os

from anthropic import Anthropic

client = Anthropic(base_url="{url}", api_key=os.environ["{KEY}"])
answer = client.messages.create(
    model="claude-haiku-4-5", max_tokens=100, messages=[{{"role": "user", "content": "Hello!"}}]
)
print(answer.content[0].text)"""


def _anthropic_typescript(url: str) -> str:
    return f"""import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({{ baseURL: "{url}", apiKey: process.env.{KEY} }});
const answer = await client.messages.create({{
  model: "claude-haiku-4-5", max_tokens: 100, messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(answer.content);"""


def _google_python(url: str) -> str:
    return f"""import os

from google import genai

client = genai.Client(api_key=os.environ["{KEY}"], http_options={{"base_url": "{url}"}})
print(client.models.generate_content(model="gemini-2.5-flash", contents="Hello!").text)"""


def _google_typescript(url: str) -> str:
    return f"""import {{ GoogleGenAI }} from "@google/genai";

const client = new GoogleGenAI({{ apiKey: process.env.{KEY}, httpOptions: {{ baseUrl: "{url}" }} }});
const answer = await client.models.generateContent({{ model: "gemini-2.5-flash", contents: "Hello!" }});
console.log(answer.text);"""


def _cloudflare(url: str, account_id: str) -> str:
    return f"""import os

from cloudflare import Cloudflare

client = Cloudflare(base_url="{url}", api_token=os.environ["{KEY}"])
for gateway in client.ai_gateway.list(account_id="{account_id}"):
    print(gateway.id)"""
