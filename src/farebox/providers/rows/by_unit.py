"""The rows of those that are not billed by tokens: by characters, seconds, images, runs or units of their own."""

from typing import Final

from farebox.providers.formats.cartesia import CartesiaSpeech, CartesiaTranscript
from farebox.providers.formats.deepgram import DeepgramListen, DeepgramSpeak
from farebox.providers.formats.elevenlabs import ElevenLabsSpeech, ElevenLabsTranscript
from farebox.providers.formats.ideogram import Ideogram
from farebox.providers.provider import Provider, get, post

BY_UNIT: Final = (
    Provider("replicate", "Replicate", "https://api.replicate.com/v1", (), chat_path=None),
    Provider("fal", "fal", "https://fal.run", (), chat_path=None, scheme="Key"),
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
)
