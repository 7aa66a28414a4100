"""Embedders: from what an agent sees to the vector its situation is remembered under."""

from nt_memory.embedders.contract import AsyncEmbedder, Embedder, aembed
from nt_memory.embedders.hashing import HashingTextEmbedder
from nt_memory.embedders.market import (
    FEATURES,
    HISTORY,
    SESSIONS_A_YEAR,
    VOLATILITY_FLOOR,
    MarketWindowEmbedder,
    market_features,
)
from nt_memory.embedders.openai import OpenAIEmbedder
from nt_memory.embedders.sentence_transformers import SentenceTransformersEmbedder

__all__ = [
    "FEATURES",
    "HISTORY",
    "SESSIONS_A_YEAR",
    "VOLATILITY_FLOOR",
    "AsyncEmbedder",
    "Embedder",
    "HashingTextEmbedder",
    "MarketWindowEmbedder",
    "OpenAIEmbedder",
    "SentenceTransformersEmbedder",
    "aembed",
    "market_features",
]
