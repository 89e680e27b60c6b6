"""Find names in posts: fine-tune a small encoder on WNUT-17, then let the pipeline find them in unseen posts.

    python examples/ner_wnut17.py --encoder all-MiniLM-L6-v2 --data wnut17 --save my-names

`--data` is a folder with `wnut17train.conll` and `emerging.test.annotated`, from
https://github.com/leondz/emerging_entities_17 (CC BY 4.0): 3,394 and 1,287 posts with names of six kinds. The names of
the test posts were chosen to be new, so this is a hard set: the best system of its shared task, in 2017, reached 0.42.

With all-MiniLM-L6-v2 (22 million parameters, blind to capitals), four epochs: entity F1 0.41 on the test posts, after
nine minutes of processor time.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from pellucid import AutoModelForTokenClassification, AutoTokenizer, pipeline

KINDS = ("corporation", "creative-work", "group", "location", "person", "product")
LABELS = ["O", *(f"{place}-{kind}" for kind in KINDS for place in "BI")]
BATCH = 16

Post = tuple[list[str], list[str]]  # words and their labels


def read(path: Path) -> list[Post]:
    """Read one word and its label a line; an empty line ends a post."""
    posts: list[Post] = []
    for block in path.read_text(encoding="utf-8").replace("\n\t\n", "\n\n").split("\n\n"):
        lines = [line.split("\t") for line in block.splitlines() if line.strip()]
        if lines:
            posts.append(([word for word, _ in lines], [label for _, label in lines]))
    return posts


def batches(posts: list[Post]) -> Iterator[list[Post]]:
    """Yield shuffled batches of posts of similar length, so that there is little padding."""
    order = torch.randperm(len(posts)).tolist()
    for start in range(0, len(order), 20 * BATCH):
        pool = sorted(order[start : start + 20 * BATCH], key=lambda i: len(posts[i][0]))
        for first in torch.randperm(-(-len(pool) // BATCH)).tolist():
            yield [posts[i] for i in pool[first * BATCH : (first + 1) * BATCH]]


def encode(tokenizer, batch: list[Post]):
    """Tokenize words that are already split; the first token of a word carries its label, the others none (-100)."""
    inputs = tokenizer(
        [words for words, _ in batch],
        is_split_into_words=True,
        padding=True,
        truncation=True,
        max_length=128,
        return_tensors="pt",
    )
    targets = torch.full_like(inputs["input_ids"], -100)
    for row, (_, labels) in enumerate(batch):
        words = inputs.word_ids(row)
        for place, word in enumerate(words):
            if word is not None and words[place - 1] != word:
                targets[row, place] = LABELS.index(labels[word])
    return inputs, targets


def train(model, tokenizer, posts: list[Post], epochs: int) -> None:
    """Minimise the loss with AdamW; the step size rises for a tenth of the steps, then falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.01, fused=True)
    steps = epochs * -(-len(posts) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-4, total_steps=steps + 1, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )
    model.train()
    for epoch in range(epochs):
        losses = []
        for batch in batches(posts):
            inputs, targets = encode(tokenizer, batch)
            loss = model(**inputs, labels=targets).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}", flush=True)


def spans(words: list[str], labels: list[str]) -> set[tuple[int, int, str]]:
    """Return the names in a post as (first character, end, kind), counted in the words joined by spaces."""
    found: list[tuple[int, int, str]] = []
    start, before = 0, "O"
    for word, label in zip(words, labels, strict=True):
        end = start + len(word)
        if label[0] == "I" and before[1:] == label[1:]:
            found[-1] = (found[-1][0], end, label[2:])
        elif label != "O":
            found.append((start, end, label[2:]))
        start, before = end + 1, label
    return set(found)


def evaluate(pipe, posts: list[Post]) -> float:
    """Return the F1 of names: right where both their place and their kind are."""
    right = said = true = 0
    for (words, labels), answers in zip(posts, pipe([words for words, _ in posts]), strict=True):
        ours = {(answer["start"], answer["end"], answer["entity_group"]) for answer in answers}
        theirs = spans(words, labels)
        right, said, true = right + len(ours & theirs), said + len(ours), true + len(theirs)
    return 2 * right / max(1, said + true)


def main(arguments: list[str] | None = None) -> float:
    """Train, save, load into a pipeline, and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="a folder, or a name on the Hub")
    parser.add_argument("--data", required=True, type=Path, help="the folder of WNUT-17")
    parser.add_argument("--save", default="ner-wnut17", help="the folder to write")
    parser.add_argument("--epochs", default=4, type=int)
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(given.encoder)
    model = AutoModelForTokenClassification.from_pretrained(given.encoder, id2label=dict(enumerate(LABELS)))
    start = time.process_time()
    train(model, tokenizer, read(given.data / "wnut17train.conll"), given.epochs)
    print(f"trained in {time.process_time() - start:.0f} s of processor time")
    model.save_pretrained(given.save)
    tokenizer.save_pretrained(given.save)

    pipe = pipeline("ner", given.save, aggregation_strategy="first", is_split_into_words=True)
    score = evaluate(pipe, read(given.data / "emerging.test.annotated"))
    print(f"entity F1 on unseen posts: {score:.3f}")
    for text in ("Flying from Berlin to New York with Anna Smith", "The new iPhone is better than anything by Samsung"):
        found = pipe(text.split())
        print(f"{text}: " + (", ".join(f"{one['word']} ({one['entity_group']})" for one in found) or "no names"))
    return score


if __name__ == "__main__":
    main()
