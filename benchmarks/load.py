"""How long a checkpoint takes from its file to parameters: ours, the original's, and reading the bare file.

The file is in the page cache. The original maps the file, so its call returns before anything is read; therefore the
time until every parameter has been summed once is shown beside the time of the call. Both libraries have loaded a tiny
model of the same class before the clock starts: what importing costs is in startup.py.
"""

import tempfile
from pathlib import Path

import measure

MAKE = """
import sys
from pellucid import BertConfig, BertModel
hidden, layers = map(int, sys.argv[2:])
sizes = {"hidden_size": hidden, "num_attention_heads": hidden // 64, "intermediate_size": 4 * hidden}
config = BertConfig(num_hidden_layers=layers, **sizes)
BertModel.from_config(config).save_pretrained(sys.argv[1], max_shard_size="100GB")
"""
LOAD = """
import json, sys, time, torch
from {} import BertModel
BertModel.from_pretrained(sys.argv[2])
start = time.perf_counter()
model = BertModel.from_pretrained(sys.argv[1])
called = time.perf_counter()
total = sum(float(p.detach().sum()) for p in model.parameters())
touched = time.perf_counter()
with torch.no_grad():
    hidden = model(input_ids=torch.arange(100, 116)[None]).last_hidden_state[0, :, 0].tolist()
print(json.dumps([called - start, touched - start, hidden]))
"""
READ = """
import json, os, sys, time, torch
from concurrent.futures import ThreadPoolExecutor
threads, path = int(sys.argv[2]), sys.argv[1] + "/model.safetensors"
torch.ones(1).sum()
start = time.perf_counter()
size = os.path.getsize(path)
tensor = torch.empty(size, dtype=torch.uint8)
view, file = memoryview(tensor.numpy()), os.open(path, os.O_RDONLY)
piece = 2**24
with ThreadPoolExecutor(threads) as pool:
    counts = pool.map(lambda at: os.preadv(file, [view[at : at + piece]], at), range(0, size, piece))
    assert sum(counts) == size
called = time.perf_counter()
tensor[: size // 4 * 4].view(torch.float32).sum()
print(json.dumps([called - start, time.perf_counter() - start, None]))
"""
SIZES = {"BERT-base, 110 M parameters": (768, 12), "BERT of 1 B parameters": (2048, 19)}


def rows_of(name: str, folder: Path, tiny: Path, rounds: int) -> list[list[str]]:
    """Measure one checkpoint."""
    programs: dict[str, measure.Program] = {
        "pellucid": [LOAD.format("pellucid"), folder, tiny],
        "transformers": [LOAD.format("transformers"), folder, tiny],
        "reading the file, 1 thread": [READ, folder, "1"],
        "reading the file, 4 threads": [READ, folder, "4"],
    }
    runs = measure.interleave(programs, rounds)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    wanted = runs["transformers"][0].said[2]
    rows = []
    for library, found in runs.items():
        called, touched = (f"{measure.median([run.said[i] for run in found]) * 1e3:.0f}" for i in (0, 1))
        memory = f"{measure.median([run.mib for run in found]):,.0f}"
        hidden = found[0].said[2]
        apart = max(abs(a - b) for a, b in zip(hidden, wanted, strict=True)) if hidden else None
        deviation = "" if apart is None else f"{apart:.0e}" if apart else "0"
        rows.append([f"{name}, {size:,.0f} MB", library, called, touched, memory, deviation])
    return rows


def main() -> None:
    options = measure.arguments(__doc__ or "")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        tiny = Path(scratch) / "tiny"
        measure.run(MAKE, tiny, "64", "1")
        for name, (hidden, layers) in list(SIZES.items())[: 1 if options.quick else None]:
            folder = Path(scratch) / str(hidden)
            measure.run(MAKE, folder, str(hidden), str(layers))
            rows += rows_of(name, folder, tiny, 2 if options.quick else 7)
            (folder / "model.safetensors").unlink()
    heads = ["checkpoint, float32", "by", "call, ms", "read once, ms", "peak MiB", "deviation"]
    measure.report("load", measure.table(heads, rows), save=options.save)


if __name__ == "__main__":
    main()
