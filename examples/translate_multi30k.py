"""Translate English to German: train a small Marian from nothing on Multi30k, then let the pipeline translate.

    pip install sacrebleu
    python examples/translate_multi30k.py --data multi30k --save my-translator

`--data` is a folder with `train.en.gz`, `train.de.gz`, `test_2016_flickr.en.gz` and `test_2016_flickr.de.gz` (or the
same without .gz), from https://github.com/multi30k/dataset, `data/task1/raw`: 29,000 captions of photographs in both
languages, and 1,000 to test with. The vocabulary is learned from the captions, too.
"""

import argparse
import gzip
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from pellucid import MarianConfig, MarianMTModel, Tokenizer, pipeline

VOCABULARY = 6000  # tokens of both languages together
BATCH = 3000  # tokens of source and target together, padding included
RATE, WARM_UP = 2e-3, 400  # the highest step size, and the steps that lead there
SMOOTHING = 0.1  # the probability that the loss gives to all other tokens


def read(folder: Path, name: str) -> list[str]:
    """Read the lines of a file, which may be compressed."""
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    return content.decode("utf-8").strip().split("\n")


def learn_vocabulary(texts: list[str]) -> Tokenizer:
    """Learn a vocabulary of pieces of words from texts."""
    rust = RustTokenizer(models.Unigram())
    rust.normalizer = normalizers.NFKC()
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    rust.train_from_iterator(texts, trainer)
    rust.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", special.index("</s>"))]
    )
    return Tokenizer(rust, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=128)


def new_model(tokenizer: Tokenizer) -> MarianMTModel:
    """Return an untrained model of about six million parameters."""
    return MarianMTModel.from_config(
        MarianConfig(
            vocab_size=len(tokenizer),
            d_model=256,
            encoder_layers=3,
            decoder_layers=3,
            encoder_ffn_dim=768,
            decoder_ffn_dim=768,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            max_position_embeddings=128,
            activation_function="relu",
            dropout=0.2,
            scale_embedding=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )


def batches(pairs: list[tuple[list[int], list[int]]]) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield shuffled batches of pairs of similar length, for ever."""
    while True:
        order = sorted(torch.randperm(len(pairs)).tolist(), key=lambda i: len(pairs[i][1]))  # ties stay shuffled
        made, batch, widest = [], [], 0
        for i in order:
            widest = max(widest, len(pairs[i][0]) + len(pairs[i][1]))
            if batch and widest * (len(batch) + 1) > BATCH:
                made.append(batch)
                batch, widest = [], len(pairs[i][0]) + len(pairs[i][1])
            batch.append(pairs[i])
        made.append(batch)
        for place in torch.randperm(len(made)).tolist():
            yield made[place]


def train(model: MarianMTModel, tokenizer: Tokenizer, pairs: list[tuple[list[int], list[int]]], steps: int) -> None:
    """Minimise the smoothed loss with AdamW; the step size rises at first, then falls as a cosine does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    warm = min(WARM_UP, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, n / steps)))
    )
    model.train()
    losses, start = [], time.monotonic()
    for step, batch in zip(range(1, steps + 1), batches(pairs), strict=False):
        inputs = tokenizer.pad([{"input_ids": source} for source, _ in batch], return_tensors="pt")
        targets = tokenizer.pad([{"input_ids": target} for _, target in batch], return_tensors="pt")
        labels = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
        logits = model(**inputs, labels=labels).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 200 == 0 or step == steps:
            print(f"step {step}: loss {sum(losses) / len(losses):.3f}, {time.monotonic() - start:.0f} s", flush=True)
            losses = []
    model.eval()


def main(arguments: list[str] | None = None) -> float:
    """Train, save, load into a pipeline, translate the test set, and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="the folder of Multi30k")
    parser.add_argument("--save", default="translator-multi30k", help="the folder to write")
    parser.add_argument("--steps", default=3000, type=int, help="batches to learn from; 400 are about one round")
    given = parser.parse_args(arguments)
    from sacrebleu import corpus_bleu

    torch.manual_seed(0)
    english, german = read(given.data, "train.en"), read(given.data, "train.de")
    tokenizer = learn_vocabulary(english + german)
    pairs = list(zip(tokenizer(english)["input_ids"], tokenizer(german)["input_ids"], strict=True))
    model = new_model(tokenizer)
    train(model, tokenizer, pairs, given.steps)
    model.save_pretrained(given.save)
    tokenizer.save_pretrained(given.save)

    translate = pipeline("translation", given.save, num_beams=4, max_new_tokens=60)
    sources, references = read(given.data, "test_2016_flickr.en"), read(given.data, "test_2016_flickr.de")
    written = [answer["translation_text"] for answer in translate(sources)]
    score = corpus_bleu(written, [references]).score
    print(f"sacreBLEU on the 2016 test set: {score:.1f}")
    for source, target in list(zip(sources, written, strict=True))[:5]:
        print(f"{source}\n    {target}")
    return score


if __name__ == "__main__":
    main()
