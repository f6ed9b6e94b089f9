"""The rows of providers that bill not by tokens, but by characters, seconds, images, runs or their own units."""

import re
from collections.abc import Mapping
from typing import Final

from farebox.providers.formats.cartesia import CartesiaSpeech, CartesiaTranscript
from farebox.providers.formats.deepgram import DeepgramListen, DeepgramSpeak
from farebox.providers.formats.elevenlabs import ElevenLabsSpeech, ElevenLabsTranscript
from farebox.providers.formats.fal import MODEL, QUEUE, Fal
from farebox.providers.formats.ideogram import Ideogram
from farebox.providers.formats.replicate import Replicate
from farebox.providers.formats.stability import Stability
from farebox.providers.object_routes import FAL, REPLICATE
from farebox.providers.provider import Provider, get, move, post

_NAME: Final = r"[\w.-]+"


def _fal_host(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The host of a path: fal's queue has a separate one."""
    return {"host": "queue.fal.run" if "queue" in fields else "fal.run"}


BY_UNIT: Final = (
    Provider(
        "replicate",
        "Replicate",
        "https://api.replicate.com/v1",
        (
            post(rf"((models|deployments)/{_NAME}/{_NAME}/)?predictions", Replicate()),
            get(rf"models/{_NAME}/{_NAME}(/versions(/{_NAME})?)?"),
            get(r"hardware"),
        ),
        (move(r"^(v1/)+(?=.)", ""),),
        chat_path=None,
        objects=REPLICATE,
    ),
    Provider(
        "fal",
        "fal",
        "https://{host}",
        (
            post(QUEUE + MODEL, Fal(name="fal_queue", queued=True)),
            post(MODEL, Fal()),
        ),
        chat_path=None,
        scheme="Key",
        place=re.compile(r"(?P<prefix>(?:(?P<queue>queue)/)?)"),
        hosts=_fal_host,
        objects=FAL,
    ),
    Provider(
        "deepgram",
        "Deepgram",
        "https://api.deepgram.com",
        (
            post(r"v1/listen", DeepgramListen()),
            post(r"v1/speak", DeepgramSpeak()),
            get(r"v1/models(/[\w-]+)?"),
        ),
        chat_path=None,
        scheme="Token",
    ),
    Provider(
        "elevenlabs",
        "ElevenLabs",
        "https://api.elevenlabs.io",
        (
            post(r"v1/text-to-speech/\w+(/stream)?(/with-timestamps)?", ElevenLabsSpeech()),
            post(r"v1/speech-to-text", ElevenLabsTranscript()),
            get(r"v1/models"),
        ),
        chat_path=None,
        key_header="xi-api-key",
    ),
    Provider(
        "cartesia",
        "Cartesia",
        "https://api.cartesia.ai",
        (
            post(r"tts/(bytes|sse)", CartesiaSpeech()),
            post(r"stt", CartesiaTranscript()),
        ),
        chat_path=None,
        key_header="x-api-key",
    ),
    Provider(
        "ideogram",
        "Ideogram",
        "https://api.ideogram.ai",
        (
            post(r"v1/ideogram-v\d+/(generate|remix|edit|reframe|replace-background)", Ideogram()),
            post(r"generate|remix|edit|reframe|upscale", Ideogram()),
        ),
        chat_path=None,
        key_header="api-key",
    ),
    Provider(
        "stability",
        "Stability AI",
        "https://api.stability.ai",
        (
            post(r"v2beta/stable-image/generate/(ultra|core|sd3)", Stability()),
            post(
                r"v2beta/stable-image/edit/(erase|inpaint|outpaint|search-and-replace|search-and-recolor|remove-background)",
                Stability(),
            ),
            post(r"v2beta/stable-image/upscale/(fast|conservative)", Stability()),
            post(r"v2beta/stable-image/control/(sketch|structure|style|style-transfer)", Stability()),
        ),
        chat_path=None,
    ),
)
