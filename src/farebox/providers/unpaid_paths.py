"""Paths that are known, and not called on the operator's key all the same: what they cost is billed for as long as
something is kept, or by what neither request nor response says."""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Unpaid:
    """Paths of a provider that the operator does not pay for."""

    slug: str
    pattern: re.Pattern[str]
    shown: str
    """The path as documentation writes it."""
    why: str
    """A sentence without its full stop: the reason, and what to do instead."""


_STORED: Final = (
    "vector stores are billed by the gigabyte and day for as long as they exist, and the first gigabyte is free for "
    "all accounts together"
)
_INSTEAD: Final = "or use your own key"


def _of(slug: str, *paths: tuple[str, str, str]) -> tuple[Unpaid, ...]:
    """Of a pattern, what stands for it, and why."""
    return tuple(Unpaid(slug, re.compile(pattern, re.ASCII), shown, why) for pattern, shown, why in paths)


UNPAID: Final = (
    *_of(
        "openai",
        (
            r"vector_stores(/.*)?",
            "vector_stores…",
            f"{_STORED}: send files with the request (`input_file`), {_INSTEAD}",
        ),
        (
            r"containers(/.*)?",
            "containers…",
            "containers are billed by their size and for each session of 20 minutes, and nothing says how many there "
            f"were: run tools yourself, {_INSTEAD}",
        ),
        (
            r"videos/(edits|extensions|characters)(/.*)?",
            "videos/edits, videos/extensions, videos/characters…",
            "they begin with a video that is uploaded or kept, whose length the request does not say: use `videos`, or "
            f"`remix`, {_INSTEAD}",
        ),
        (r"uploads(/.*)?", "uploads…", f"uploads in parts are not put together here: upload with `files`, {_INSTEAD}"),
        (
            r"(assistants|threads)(/.*)?",
            "assistants…, threads…",
            f"assistants do what their stored configuration says, which is not seen here: use `responses`, {_INSTEAD}",
        ),
        (
            r"(evals|fine_tuning)(/.*)?",
            "evals…, fine_tuning…",
            f"only the finished job says what it has cost: {_INSTEAD.removeprefix('or ')}",
        ),
    ),
    *_of(
        "anthropic",
        (
            r"v1/(agents|sessions|environments|memory_stores|skills)(/.*)?",
            "v1/agents…, v1/sessions…, v1/environments…, v1/memory_stores…, v1/skills…",
            f"they are billed by the time that they run: use `v1/messages`, {_INSTEAD}",
        ),
    ),
    *_of(
        "google-ai-studio",
        (
            r"v1(beta|alpha)?/(models|tunedModels)/[\w.-]+:(predictLongRunning|predict)|v1(beta|alpha)?/models/[\w.-]+/operations.*",
            "v1beta/models/{model}:predict, :predictLongRunning",
            "of other models than Imagen and Veo, what is made is billed by what no response says: "
            f"{_INSTEAD.removeprefix('or ')}",
        ),
        (
            r"v1(beta|alpha)?/models/[\w.-]+:asyncBatchEmbedContent",
            "v1beta/models/{model}:asyncBatchEmbedContent",
            f"batches of embeddings are not read here: use `batchEmbedContents`, {_INSTEAD}",
        ),
        (
            r"v1(beta|alpha)?/(fileSearchStores|corpora)(/.*)?",
            "v1beta/fileSearchStores…",
            f"what is indexed in them is not seen here: send files with the request, {_INSTEAD}",
        ),
        (
            r"v1(beta|alpha)?/tunedModels(/.*)?",
            "v1beta/tunedModels…",
            f"only the finished job says what it has cost: {_INSTEAD.removeprefix('or ')}",
        ),
    ),
    *_of(
        "google-vertex-ai",
        (
            r"v1(beta1)?/projects/[\w-]+/locations/[\w-]+/cachedContents(/.*)?",
            "v1/projects/{project}/locations/{location}/cachedContents…",
            "what is kept in them may be in the operator's buckets, and its price depends on its kind: Google caches "
            f"by itself what repeats, and bills nothing for keeping it; leave it to that, {_INSTEAD}",
        ),
    ),
    *_of(
        "grok",
        (
            r"videos/(edits|extensions)",
            "videos/edits, videos/extensions",
            "the video that they begin with is billed too, and its length is not in the request: use "
            f"`videos/generations`, {_INSTEAD}",
        ),
    ),
    *_of(
        "replicate",
        (
            r"predictions",
            "GET predictions",
            f"the list has those of all accounts: keep the IDs that `predictions` answers with, {_INSTEAD}",
        ),
        (
            r"trainings(/.*)?|models/[\w.-]+/[\w.-]+/versions/[\w.-]+/trainings",
            "trainings…",
            f"only the finished job says what it has cost: {_INSTEAD.removeprefix('or ')}",
        ),
        (
            r"deployments(/[\w.-]+/[\w.-]+)?",
            "deployments…",
            "a deployment is billed for as long as its hardware waits: the operator sets it up, and its `predictions` "
            f"are called here, {_INSTEAD}",
        ),
        (r"files(/.*)?", "files…", f"files are not noted here: send them as `data:` URLs in `input`, {_INSTEAD}"),
    ),
    *_of(
        "fal",
        (
            r"[\w.-]+/[\w.-]+(/[\w.-]+){0,4}/stream",
            "{model}/stream",
            f"a stream has no header that states its units: run the model at once, or by the queue, {_INSTEAD}",
        ),
        (
            r"(queue/)?(workflows|comfy)/.*",
            "workflows/…, comfy/…",
            f"they run several models, and nothing states the units of each: call the models, {_INSTEAD}",
        ),
        (
            r"(proxy(/.*)?)?",
            "proxy mode: x-fal-target-url",
            "the path does not name what is called: let the client's `requestMiddleware` put the URL here in the place "
            f"of fal's, {_INSTEAD}",
        ),
    ),
    *_of(
        "stability",
        (
            r"v2beta/(stable-image/upscale/creative|stable-image/edit/replace-background-and-relight|results)(/.*)?",
            "v2beta/stable-image/upscale/creative, …/edit/replace-background-and-relight, v2beta/results…",
            f"their result is fetched later by a request that is not read here: use another service, {_INSTEAD}",
        ),
        (
            r"v1/generation/.*",
            "v1/generation/…",
            f"they are billed by their steps, and by engine: use `v2beta/stable-image/generate`, {_INSTEAD}",
        ),
    ),
    *_of(
        "mistral",
        (
            r"(agents|conversations)(/.*)?",
            "agents…, conversations…",
            "agents do what their stored configuration says, which is not seen here: use `chat/completions`, "
            f"{_INSTEAD}",
        ),
        (
            r"(libraries|fine_tuning)(/.*)?",
            "libraries…, fine_tuning…",
            f"they are billed by what is kept or trained: {_INSTEAD.removeprefix('or ')}",
        ),
    ),
)


def why_unpaid(slug: str, path: str) -> str:
    """Why the operator's key is not for this canonical path; empty where that is not said."""
    return next((unpaid.why for unpaid in UNPAID if unpaid.slug == slug and unpaid.pattern.fullmatch(path)), "")
