"""The `support` section of a cluster file: answers from knowledge bases (`/v1/support`, `/v1/knowledge`)."""

from __future__ import annotations

from pydantic import Field

from serve.config.model_base import Name, Section


class Support(Section):
    """Which models answer customers from which store, and when a stronger one is asked."""

    knowledge: Name = Field(description="Model of kind knowledge_store that holds the documents.")
    chat_model: Name = Field(description="Chat model that answers.")
    escalation_model: Name | None = Field(
        None, description="Stronger chat model that answers when the rule says so; none only reports the reasons."
    )
    embedding_model: Name | None = Field(
        None,
        description="Model whose text embeddings find chunks beside their words, in the cluster's vector index; name "
        "one trained on texts. None searches by words alone.",
    )
    chunks: int = Field(4, ge=1, le=20, description="Most chunks that the model is offered.")
    max_tokens: int = Field(256, ge=1, le=4096, description="Most tokens of an answer.")
    min_coverage: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Least share of the message's distinguishing words (weighted by inverse document frequency; words "
        "like `how` and `the` do not count) in the best chunk, below which nothing relevant was found.",
    )
    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="Least cosine to the nearest chunk that counts as relevant too."
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="Least mean probability (geometric) of the answer's tokens. Not calibrated."
    )
