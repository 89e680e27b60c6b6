"""Writing text, token by token: greedy, sampled, with beams, guessing ahead, constrained, streamed."""

from ..generation_config import GenerationConfig
from .generate import generate
from .output import GenerateOutput
from .streamers import TextIteratorStreamer, TextStreamer
from .streaming import Stream, stream

__all__ = [
    "GenerateOutput",
    "GenerationConfig",
    "Stream",
    "TextIteratorStreamer",
    "TextStreamer",
    "generate",
    "stream",
]
