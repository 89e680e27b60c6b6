"""One line an architecture: the smallest model that exercises everything its file can do."""

CASES = {
    "bert": dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, max_position_embeddings=40),
    "distilbert": dict(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=37, max_position_embeddings=40),
}  # fmt: skip

HEADS = {
    "bert": ["Model", "ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction", "ForSequenceClassification",
             "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering"],
    "distilbert": ["Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification",
                   "ForQuestionAnswering"],
}  # fmt: skip

EVERY_CLASS = [(architecture, head) for architecture, heads in HEADS.items() for head in heads]
EVERY_HEAD = [(architecture, head) for architecture, head in EVERY_CLASS if head != "Model"]
