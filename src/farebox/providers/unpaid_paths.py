"""Known paths that are nevertheless not called on the operator's key: they are billed for as long as something is kept,
or by something that neither the request nor the response states."""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class UnpaidPath:
    """Paths of a provider that the operator does not pay for."""

    slug: str
    pattern: re.Pattern[str]
    shown: str
    """The path as documentation writes it."""
    why: str
    """A sentence without its full stop: the reason, and what to do instead."""


_STORED: Final = (
    "vector stores are billed per gigabyte and day for as long as they exist, and the first gigabyte is free only "
    "once, for all accounts together"
)
_INSTEAD: Final = "or use your own key"


def _of(slug: str, *paths: tuple[str, str, str]) -> tuple[UnpaidPath, ...]:
    """The entries of a provider: pattern, how it is shown, and why."""
    return tuple(UnpaidPath(slug, re.compile(pattern, re.ASCII), shown, why) for pattern, shown, why in paths)


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
            "containers are billed by size and per session of 20 minutes, and the number of sessions is not reported: "
            f"run tools yourself, {_INSTEAD}",
        ),
        (
            r"videos/(edits|extensions|characters)(/.*)?",
            "videos/edits, videos/extensions, videos/characters…",
            "they start from an uploaded or stored video whose length the request does not state: use `videos` or "
            f"`remix`, {_INSTEAD}",
        ),
        (r"uploads(/.*)?", "uploads…", f"uploads in parts are not supported: upload with `files`, {_INSTEAD}"),
        (
            r"(assistants|threads)(/.*)?",
            "assistants…, threads…",
            f"assistants follow their stored configuration, which Farebox does not see: use `responses`, {_INSTEAD}",
        ),
        (
            r"(evals|fine_tuning)(/.*)?",
            "evals…, fine_tuning…",
            f"the cost is known only when the job has finished: {_INSTEAD.removeprefix('or ')}",
        ),
    ),
    *_of(
        "anthropic",
        (
            r"v1/(agents|sessions|environments|memory_stores|skills)(/.*)?",
            "v1/agents…, v1/sessions…, v1/environments…, v1/memory_stores…, v1/skills…",
            f"they are billed by running time: use `v1/messages`, {_INSTEAD}",
        ),
    ),
    *_of(
        "google-ai-studio",
        (
            r"v1(beta|alpha)?/(models|tunedModels)/[\w.-]+:(predictLongRunning|predict)|v1(beta|alpha)?/models/[\w.-]+/operations.*",
            "v1beta/models/{model}:predict, :predictLongRunning",
            "models other than Imagen and Veo are billed by something that no response states: "
            f"{_INSTEAD.removeprefix('or ')}",
        ),
        (
            r"v1(beta|alpha)?/models/[\w.-]+:asyncBatchEmbedContent",
            "v1beta/models/{model}:asyncBatchEmbedContent",
            f"batches of embeddings are not supported: use `batchEmbedContents`, {_INSTEAD}",
        ),
        (
            r"v1(beta|alpha)?/(fileSearchStores|corpora)(/.*)?",
            "v1beta/fileSearchStores…",
            f"Farebox does not see what is indexed in them: send files with the request, {_INSTEAD}",
        ),
        (
            r"v1(beta|alpha)?/tunedModels(/.*)?",
            "v1beta/tunedModels…",
            f"the cost is known only when the job has finished: {_INSTEAD.removeprefix('or ')}",
        ),
    ),
    *_of(
        "google-vertex-ai",
        (
            r"v1(beta1)?/projects/[\w-]+/locations/[\w-]+/cachedContents(/.*)?",
            "v1/projects/{project}/locations/{location}/cachedContents…",
            "they can contain objects from the operator's buckets, and their price depends on the kind of content: "
            f"rely on Google's implicit caching, which has no storage fee, {_INSTEAD}",
        ),
    ),
    *_of(
        "grok",
        (
            r"videos/(edits|extensions)",
            "videos/edits, videos/extensions",
            "the video that they start from is billed too, and the request does not state its length: use "
            f"`videos/generations`, {_INSTEAD}",
        ),
    ),
    *_of(
        "replicate",
        (
            r"predictions",
            "GET predictions",
            f"the list contains those of all accounts: keep the IDs that `predictions` returns, {_INSTEAD}",
        ),
        (
            r"trainings(/.*)?|models/[\w.-]+/[\w.-]+/versions/[\w.-]+/trainings",
            "trainings…",
            f"the cost is known only when the job has finished: {_INSTEAD.removeprefix('or ')}",
        ),
        (
            r"deployments(/[\w.-]+/[\w.-]+)?",
            "deployments…",
            "a deployment is billed for as long as its hardware is allocated: ask the operator to set it up, and "
            f"call its `predictions`, {_INSTEAD}",
        ),
        (
            r"files(/.*)?",
            "files…",
            f"Farebox does not keep track of files: send them as `data:` URLs in `input`, {_INSTEAD}",
        ),
    ),
    *_of(
        "fal",
        (
            r"[\w.-]+/[\w.-]+(/[\w.-]+){0,4}/stream",
            "{model}/stream",
            f"a stream has no header that states its units: run the model directly or through the queue, {_INSTEAD}",
        ),
        (
            r"(queue/)?(workflows|comfy)/.*",
            "workflows/…, comfy/…",
            f"they run several models, and the units of each are not reported: call the models, {_INSTEAD}",
        ),
        (
            r"(proxy(/.*)?)?",
            "proxy mode: x-fal-target-url",
            "the path does not name the model: let the client's `requestMiddleware` replace fal's URL with the one "
            f"here, {_INSTEAD}",
        ),
    ),
    *_of(
        "stability",
        (
            r"v2beta/(stable-image/upscale/creative|stable-image/edit/replace-background-and-relight|results)(/.*)?",
            "v2beta/stable-image/upscale/creative, …/edit/replace-background-and-relight, v2beta/results…",
            f"their result is fetched later by a request that Farebox does not meter: use another service, {_INSTEAD}",
        ),
        (
            r"v1/generation/.*",
            "v1/generation/…",
            f"they are billed by steps and engine: use `v2beta/stable-image/generate`, {_INSTEAD}",
        ),
    ),
    *_of(
        "mistral",
        (
            r"(agents|conversations)(/.*)?",
            "agents…, conversations…",
            f"agents follow their stored configuration, which Farebox does not see: use `chat/completions`, {_INSTEAD}",
        ),
        (
            r"(libraries|fine_tuning)(/.*)?",
            "libraries…, fine_tuning…",
            f"they are billed by what is stored or trained: {_INSTEAD.removeprefix('or ')}",
        ),
    ),
)


def why_unpaid(slug: str, path: str) -> str:
    """Why the operator's key is not used for this canonical path; empty if it is not in the table."""
    return next((unpaid.why for unpaid in UNPAID if unpaid.slug == slug and unpaid.pattern.fullmatch(path)), "")
