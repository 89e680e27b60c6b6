"""How fast language models write: ours, the original's, and the floor that the memory's bandwidth sets.

Each step reads every weight once, however many texts are written at once; so no program can take fewer seconds a step
than the weights have bytes, divided by the bandwidth. Time is that of a long answer less that of a short one, over the
tokens between them: reading the prompt does not count. Models are random: what they write is compared, and does not
matter to their speed.
"""

import json
import tempfile
from pathlib import Path

import measure

MAKE = """
import json, sys, torch
from pellucid import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
fields = json.loads(sys.argv[2])
AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=sys.argv[3]).save_pretrained(sys.argv[1])
"""
WRITE = """
import json, sys, time, torch
from {} import AutoModelForCausalLM
folder, dtype, batch, short, long, rounds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
torch.manual_seed(1)
ids = torch.randint(100, 1000, (batch, 16))
def write(count):
    start = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
                         do_sample=False, pad_token_id=0)
    return time.perf_counter() - start, out
write(short)
times = []
for _ in range(rounds):
    fast, slow = write(short)[0], write(long)
    times.append((slow[0] - fast) / (long - short))
print(json.dumps([sorted(times)[len(times) // 2], slow[1][:, 16:32].tolist()]))
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
LLAMA = {"model_type": "llama", "tie_word_embeddings": True, "eos_token_id": 2, "bos_token_id": 1}
SHAPES = {
    "GPT-2, 124 M": ({"model_type": "gpt2"}, "float32"),
    "SmolLM2, 135 M": (
        {
            **LLAMA,
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        "float32",
    ),
    "Llama of 1 B": (
        {
            **LLAMA,
            "vocab_size": 32000,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
        },
        "bfloat16",
    ),
}


def rows_of(name: str, folder: Path, dtype: str, bandwidth: float, quick: bool) -> list[list[str]]:
    """Measure one model, with one text and with eight."""
    size = (folder / "model.safetensors").stat().st_size
    rows = []
    for batch in (1, 8):
        settings = [dtype, str(batch), "4", "20" if quick else "52", "1"]
        programs: dict[str, measure.Program] = {
            library: [WRITE.format(library), folder, *settings] for library in ("pellucid", "transformers")
        }
        runs = measure.interleave(programs, 1 if quick else 2)
        seconds = {library: measure.median([run.said[0] for run in found]) for library, found in runs.items()}
        texts = {library: found[0].said[1] for library, found in runs.items()}
        same = sum(a == b for a, b in zip(*texts.values(), strict=True))
        for library, found in runs.items():
            rows.append(
                [
                    f"{name}, {dtype}",
                    str(batch),
                    library,
                    f"{batch / seconds[library]:.1f}",
                    f"{seconds['transformers'] / seconds[library]:.2f}",
                    f"{batch * bandwidth / size:.0f}",
                    f"{measure.median([run.mib for run in found]):,.0f}",
                    f"{same} of {batch}",
                ]
            )
    return rows


def main() -> None:
    options = measure.arguments(__doc__ or "")
    bandwidth = measure.median([measure.run(FLOOR).said[0] for _ in range(3)])
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, (fields, dtype) in list(SHAPES.items())[: 1 if options.quick else None]:
            folder = Path(scratch) / str(len(rows))
            measure.run(MAKE, folder, json.dumps(fields), dtype)
            rows += rows_of(name, folder, dtype, bandwidth, options.quick)
            (folder / "model.safetensors").unlink()
    heads = ["model", "texts", "by", "tokens/s", "ratio", "floor, tokens/s", "peak MiB", "same text"]
    text = f"{measure.table(heads, rows)}\n\nMemory is read at {bandwidth / 1e9:.1f} GB/s."
    measure.report("decode", text, save=options.save)


if __name__ == "__main__":
    main()
