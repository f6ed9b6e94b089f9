"""The rows of clouds that serve models of many vendors."""

import re
from typing import Final

from farebox.providers import aws, azure, google, ibm
from farebox.providers.formats.anthropic_messages import AnthropicMessages
from farebox.providers.formats.base import WireFormat
from farebox.providers.formats.bedrock_converse import BedrockConverse
from farebox.providers.formats.bedrock_invoke import BedrockInvoke
from farebox.providers.formats.google_generate import GoogleGenerate
from farebox.providers.formats.images_by_count import ImagenPredict
from farebox.providers.formats.named_by_path import NamedByPath
from farebox.providers.formats.openai_audio import OpenAISpeech, OpenAITranscript
from farebox.providers.formats.openai_chat import MISTRAL, OpenAIChat
from farebox.providers.formats.openai_embeddings import OpenAIEmbeddings
from farebox.providers.formats.openai_images import OpenAIImages
from farebox.providers.formats.openai_responses import OpenAIResponses
from farebox.providers.formats.vertex_predict import VertexPredict
from farebox.providers.formats.videos import OpenAIVideos, VeoVideos
from farebox.providers.formats.watsonx_chat import WatsonxChat
from farebox.providers.object_routes import VERTEX, object_routes
from farebox.providers.provider import FREE, Provider, Route, get, move, post

_RESOURCE, _DEPLOYMENT = azure.RESOURCE, azure.DEPLOYMENT
_AZURE_OPERATIONS: Final[tuple[tuple[str, WireFormat], ...]] = (
    (r"chat/completions", OpenAIChat(newer_limit=True)),
    (r"completions", OpenAIChat(name="openai_completions", legacy=True)),
    (r"embeddings", OpenAIEmbeddings()),
    (r"images/(?:generations|edits)", OpenAIImages()),
    (r"audio/speech", OpenAISpeech()),
    (r"audio/(?:transcriptions|translations)", OpenAITranscript()),
)
_DEPLOYED: Final = re.compile(rf"/deployments/(?P<model>{_DEPLOYMENT})/")


def _azure_routes() -> tuple[Route, ...]:
    """Each operation under the path of a deployment, and in the newer form, in which the body names the deployment."""
    deployed = rf"{_RESOURCE}/openai/deployments/{_DEPLOYMENT}/"
    return (
        *(post(deployed + path, NamedByPath(wire, _DEPLOYED)) for path, wire in _AZURE_OPERATIONS),
        *(post(rf"{_RESOURCE}/openai/v1/{path}", wire) for path, wire in _AZURE_OPERATIONS),
        post(rf"{_RESOURCE}/openai/v1/videos", OpenAIVideos()),
        post(rf"{_RESOURCE}/openai/(?:v1/)?responses", OpenAIResponses()),
        get(rf"{_RESOURCE}/openai/(?:v1/)?models(?:/[\w.:-]+)?"),
    )


_BEDROCK: Final = rf"bedrock-runtime/{aws.REGION}/"
_MANTLE: Final = rf"bedrock-mantle/{aws.REGION}/"

_VERTEX: Final = rf"v1(?:beta1)?/projects/{google.PROJECT}/locations/{google.LOCATION}/"
_EXPRESS: Final = r"v1(?:beta1)?/"
_OF_PATH: Final = re.compile(rf"/models/(?P<model>{google.MODEL}):(?:(?P<stream>streamRawPredict)|rawPredict)$")


def _raw(maker: str, wire: WireFormat) -> Route:
    """A maker's own form on Vertex AI, with the model in the path."""
    named = NamedByPath(wire, _OF_PATH)
    return post(rf"{_VERTEX}publishers/{maker}/models/{google.MODEL}:(?:rawPredict|streamRawPredict)", named)


def _vertex_routes() -> tuple[Route, ...]:
    models = rf"publishers/google/models/{google.MODEL}"
    return (
        post(rf"(?:{_VERTEX}|{_EXPRESS}){models}:(?:generateContent|streamGenerateContent)", GoogleGenerate()),
        post(rf"(?:{_VERTEX}|{_EXPRESS}){models}:countTokens", FREE),
        post(rf"{_VERTEX}publishers/google/models/imagen-{google.MODEL}:predict", ImagenPredict()),
        post(rf"{_VERTEX}publishers/google/models/veo-{google.MODEL}:predictLongRunning", VeoVideos()),
        post(rf"{_VERTEX}{models}:predict", VertexPredict()),
        post(rf"{_VERTEX}publishers/anthropic/models/count-tokens:rawPredict", FREE),
        _raw("anthropic", AnthropicMessages()),
        _raw("mistralai", OpenAIChat(reading=MISTRAL, opt_in=False, new_limit=False)),
        _raw("meta", OpenAIChat(total_counts=True)),
        post(rf"{_VERTEX}endpoints/openapi/chat/completions", OpenAIChat(total_counts=True, prefix="google/")),
    )


CLOUDS: Final = (
    Provider(
        "azure-openai",
        "Azure OpenAI",
        "https://{resource}.openai.azure.com",
        _azure_routes(),
        (
            # Cloudflare's path, and that path as OpenAI's SDK for Azure continues it.
            move(rf"^({_RESOURCE})/(?:{_DEPLOYMENT}/)?deployments/(?={_DEPLOYMENT}/)", r"\1/openai/deployments/"),
            move(
                rf"^({_RESOURCE})/(?!openai/)(?={_DEPLOYMENT}/(?:chat|completions|embeddings|images|audio)\b)",
                r"\1/openai/deployments/",
            ),
        ),
        key_header="api-key",
        chat_path=None,
        aliases=("azure",),
        place=re.compile(rf"(?P<prefix>(?P<resource>{_RESOURCE})/)"),
        place_example="azure-openai/{resource}/{deployment}/… or azure-openai/{resource}/openai/v1/…",
        keys=azure.keys_of,
        bound=("resource",),
        deploys=True,
        objects=(
            *object_routes(rf"{_RESOURCE}/openai/(?:v1/)?", "response"),
            *object_routes(rf"{_RESOURCE}/openai/v1/", "video"),
        ),
    ),
    Provider(
        "aws-bedrock",
        "Amazon Bedrock",
        "https://{host}",
        (
            post(rf"{_BEDROCK}model/{aws.MODEL}/converse(?:-stream)?", BedrockConverse()),
            post(rf"{_BEDROCK}model/{aws.MODEL}/invoke(?:-with-response-stream)?", BedrockInvoke()),
            post(rf"{_BEDROCK}model/{aws.MODEL}/count-tokens", FREE),
            post(rf"(?:{_BEDROCK}openai/|{_MANTLE})v1/chat/completions", OpenAIChat()),
            post(rf"(?:{_BEDROCK}openai/|{_MANTLE})v1/responses", OpenAIResponses()),
            get(rf"(?:{_BEDROCK}openai/|{_MANTLE})v1/models"),
        ),
        chat_path=None,
        aliases=("bedrock",),
        place=re.compile(rf"(?P<prefix>(?P<service>bedrock-runtime|bedrock-mantle)/(?P<region>{aws.REGION})/)"),
        place_example="aws-bedrock/bedrock-runtime/{region}/model/{model}/converse",
        hosts=aws.hosts,
        encoded=re.compile(r"model/(?P<model>.+)/[a-z-]+$"),
        keys=aws.keys_of,
    ),
    Provider(
        "google-vertex-ai",
        "Google Vertex AI",
        "https://{host}",
        _vertex_routes(),
        key_header="x-goog-api-key",
        chat_path=None,
        aliases=("vertex-ai",),
        place=re.compile(
            r"v1(?:beta1)?/(?:"
            rf"projects/(?P<project>{google.PROJECT})/locations/(?P<location>{google.LOCATION})/(?P<own>ws/)?"
            r"|publishers/google/)"
        ),
        place_example="google-vertex-ai/v1/projects/{project}/locations/{location}/publishers/…",
        hosts=google.hosts,
        keys=google.keys_of,
        bound=("project",),
        objects=VERTEX,
    ),
    Provider(
        "watsonx",
        "IBM watsonx.ai",
        "https://us-south.ml.cloud.ibm.com",
        (post(r"ml/v1/text/chat(?:_stream)?", WatsonxChat()), get(r"ml/v1/foundation_model_specs")),
        chat_path=None,
        aliases=("watsonx-ai",),
        keys=ibm.keys_of,
    ),
)
