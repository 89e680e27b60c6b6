"""One entry an architecture: the smallest model that exercises all its file can do, and the heads it must have."""

CASES = {
    "bert": {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 40,
    },
    "distilbert": {
        "vocab_size": 99,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 37,
        "max_position_embeddings": 40,
    },
}

ENCODER_HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
HEADS = {
    "bert": (*ENCODER_HEADS, "ForPreTraining", "ForNextSentencePrediction"),
    "distilbert": ENCODER_HEADS,
}

EVERY_CLASS = [(architecture, head) for architecture, heads in HEADS.items() for head in heads]
EVERY_HEAD = [(architecture, head) for architecture, head in EVERY_CLASS if head != "Model"]
